/** What is looked at, and how? The picture's state: crosshair, window, layout, zoom, tools, measurements. */

import { computed, signal } from "@preact/signals";
import type { Millimetres, Plane } from "../contract";
import { flipToRas, type Mark } from "../space";
import { AXES, type Fractions, type Grey, type ScanImage } from "./image";
import type { Measure } from "./measure";

export type Layout = "all" | Plane | "render";
export type Tool = "crosshair" | "window" | "pan" | "zoom" | "length" | "region";

export interface Place {
  fractions: Fractions;
  /** LPS. */
  position_mm: Millimetres;
  value: number;
}

/** Zoom 1 fits the picture into its pane; the shift is in millimetres of the picture. */
export interface Lens {
  zoom: number;
  x: number;
  y: number;
}

const FITTED: Lens = { zoom: 1, x: 0, y: 0 };
const ALL_FITTED: Record<Plane, Lens> = { axial: FITTED, coronal: FITTED, sagittal: FITTED };
const MIDDLE: Fractions = [0.5, 0.5, 0.5];
const [MIN_ZOOM, MAX_ZOOM] = [0.5, 30];

export const image = signal<ScanImage | null>(null);
/** How many slices have arrived; the picture grows with them. */
export const numSlices = signal(0);
export const isWhole = computed(() => image.value !== null && numSlices.value === image.value.shape[2]);
export const crosshair = signal<Fractions>(MIDDLE);
export const grey = signal<Grey>({ low: 0, high: 1 });
export const layout = signal<Layout>("all");
export const tool = signal<Tool>("crosshair");
export const showsCrosshair = signal(true);
export const lenses = signal(ALL_FITTED);
export const measures = signal<readonly Measure[]>([]);
/** Small screens show one plane, and may put the picture away. */
export const isShown = signal(true);

export const place = computed((): Place | null => {
  const shown = image.value;
  if (shown === null || !isWhole.value) return null;
  const fractions = crosshair.value;
  return { fractions, position_mm: flipToRas(shown.toMm(fractions)), value: shown.value(fractions) };
});

/** A new scan: nothing of the last one may stay. */
export function clearView(window: Grey = { low: 0, high: 1 }): void {
  image.value = null;
  numSlices.value = 0;
  crosshair.value = MIDDLE;
  measures.value = [];
  tool.value = "crosshair";
  grey.value = window;
  fitAll();
}

export function fitAll(): void {
  lenses.value = ALL_FITTED;
}

export function moveTo(fractions: Fractions): void {
  const [x, y, z] = fractions.map((value) => Math.min(1, Math.max(0, value)));
  crosshair.value = [x ?? 0, y ?? 0, z ?? 0];
}

/** Move along one axis, so that what was looked at within the slice stays in sight. */
export function moveToMark({ axis, fraction }: Mark): void {
  const moved: [number, number, number] = [...crosshair.value];
  moved[axis] = fraction;
  moveTo(moved);
}

/** Move by whole voxels along one RAS axis, from the centre of one to the centre of another. */
export function step(axis: 0 | 1 | 2, voxels: number): void {
  const shown = image.value;
  if (shown === null) return;
  const target = shown.voxel(axis, crosshair.value[axis]) + voxels;
  const last = shown.shape[axis] - 1;
  moveToMark({ axis, fraction: (Math.min(last, Math.max(0, target)) + 0.5) / shown.shape[axis] });
}

export const sliceOf = (plane: Plane): number => {
  const { stack } = AXES[plane];
  return image.value?.voxel(stack, crosshair.value[stack]) ?? 0;
};

export function setLens(plane: Plane, lens: Lens): void {
  lenses.value = { ...lenses.value, [plane]: { ...lens, zoom: Math.min(MAX_ZOOM, Math.max(MIN_ZOOM, lens.zoom)) } };
}

/** Drag right for a wider window, down for a higher one, as viewers do it. */
export function dragWindow(from: Grey, across: number, down: number): void {
  const width = Math.max(from.high - from.low, 1e-6);
  const step = Math.max(width / 300, 1e-6);
  const wider = Math.max(width / 200, width + across * step);
  const middle = (from.low + from.high) / 2 + down * step;
  grey.value = { low: middle - wider / 2, high: middle + wider / 2 };
}

let nextKey = 1;

export function addMeasure(measure: Omit<Measure, "key">): void {
  measures.value = [...measures.value, { ...measure, key: nextKey++ }];
}

export function dropMeasure(key: number): void {
  measures.value = measures.value.filter((one) => one.key !== key);
}

/** Bring a measurement's slice into sight. */
export function showMeasure({ plane, slice, ends: [[x0, y0], [x1, y1]] }: Measure): void {
  const shown = image.value;
  if (shown === null) return;
  const { stack } = AXES[plane];
  const at: [number, number, number] = [...crosshair.value];
  at[stack] = (slice + 0.5) / shown.shape[stack];
  moveTo(shown.fromPixel(plane, [(x0 + x1) / 2, (y0 + y1) / 2], at));
}

export function choose(wanted: Tool): void {
  tool.value = wanted;
}
