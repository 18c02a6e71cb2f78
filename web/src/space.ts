/**
 * Where does a slice lie? The server speaks DICOM's patient coordinates (LPS), the viewer NIfTI's (RAS): x and y change
 * sign. A *fraction* is a place in the scan from 0 to 1: left → right, back → front, feet → head (RAS order).
 */

import type { GridSlice, Millimetres, Plane, Receipt } from "./contract";

export const PLANES: readonly Plane[] = ["axial", "coronal", "sagittal"];
const AXIS_NAMES = ["x", "y", "z"] as const;
/** The RAS axis along which the slices of a plane are stacked. */
const STACKING_AXIS: Record<Plane, 0 | 1 | 2> = { sagittal: 0, coronal: 1, axial: 2 };
/** What the first and the last slice of a stack are near to. */
export const STACK_ENDS: Record<Plane, readonly [string, string]> = {
  axial: ["feet", "head"],
  coronal: ["front", "back"],
  sagittal: ["right", "left"],
};

/** LPS → RAS and back: it is its own inverse. */
export function flipToRas([x, y, z]: Millimetres): Millimetres {
  return [negated(x), negated(y), z];
}

const negated = (value: number) => (value === 0 ? 0 : -value);

/** The slices of one plane, as they stand together under one row of bars. */
export interface Stack {
  plane: Plane;
  first: number;
  slices: GridSlice[];
}

/** Slices by plane: one stack, or several for a model that scores several planes together. */
export function stacksOf(slices: readonly GridSlice[], receipt: Receipt): Stack[] {
  const stacks: Stack[] = [];
  slices.forEach((slice, index) => {
    const plane = slice.plane ?? receipt.grid.plane;
    const last = stacks.at(-1);
    if (last?.plane === plane) last.slices.push(slice);
    else stacks.push({ plane, first: index, slices: [slice] });
  });
  return stacks;
}

/** One coordinate of the crosshair: which RAS axis, and how far along it. */
export interface Mark {
  axis: 0 | 1 | 2;
  fraction: number;
}

/**
 * Where each grid slice cuts the scan. With geometry its centre's millimetres are asked of the viewer; without, the
 * place follows from the crop that the receipt states, in voxels.
 */
export function marksOf(
  slices: readonly GridSlice[],
  receipt: Receipt,
  toFraction: (ras: Millimetres) => ArrayLike<number>,
): Mark[] {
  return stacksOf(slices, receipt).flatMap((stack) => {
    const axis = STACKING_AXIS[stack.plane];
    const canonical = 2 - axis; // the receipt counts z, y, x
    const [low, high] = receipt.crop_zyx[canonical] ?? [0, 1];
    const length = receipt.shape_zyx[canonical] ?? 1;
    return stack.slices.map((slice, index): Mark => {
      if (slice.position_mm !== null) return { axis, fraction: toFraction(flipToRas(slice.position_mm))[axis] ?? 0.5 };
      const along = (low + ((index + 0.5) / stack.slices.length) * (high - low)) / length;
      return { axis, fraction: axis === 2 ? along : 1 - along };
    });
  });
}

/** The slice of a stack that lies nearest to a place; null where there is none. */
export function nearestSlice(marks: readonly Mark[], stack: Stack, fractions: ArrayLike<number>): number | null {
  let nearest: number | null = null;
  let least = Number.POSITIVE_INFINITY;
  for (let index = stack.first; index < stack.first + stack.slices.length; index++) {
    const mark = marks[index];
    if (mark === undefined) continue;
    const distance = Math.abs((fractions[mark.axis] ?? 0) - mark.fraction);
    if (distance < least) [nearest, least] = [index, distance];
  }
  return nearest;
}

/** `slices 71–73`, or `cut 5 of 32` where every cut of a reformatted plane crosses all slices of the file. */
export function sliceName(stack: Stack, index: number, withPlane = false): string {
  const slice = stack.slices[index - stack.first];
  if (slice === undefined) return "";
  const plane = withPlane ? `${stack.plane} ` : "";
  const numbers = slice.source_slices;
  const isReformatted =
    numbers.length > 1 &&
    stack.slices.length > 1 &&
    stack.slices.every((other) => other.source_slices.join() === numbers.join());
  if (isReformatted) return `${plane}cut ${index - stack.first} of ${stack.slices.length}`;
  const low = Math.min(...numbers);
  const high = Math.max(...numbers);
  return low === high ? `${plane}slice ${low}` : `${plane}slices ${low}–${high}`;
}

/** `z −208 mm`: the slice's centre along the axis its stack differs most in; empty without geometry. */
export function placeName(stack: Stack, index: number): string {
  const position = stack.slices[index - stack.first]?.position_mm;
  const first = stack.slices[0]?.position_mm;
  const last = stack.slices.at(-1)?.position_mm;
  if (!position || !first || !last || stack.slices.length < 2) return "";
  const spans = first.map((value, axis) => Math.abs((last[axis] ?? value) - value));
  const axis = spans.indexOf(Math.max(...spans)) as 0 | 1 | 2;
  return withMinus(`${AXIS_NAMES[axis]} ${position[axis].toFixed(0).replace(/^-0$/, "0")} mm`);
}

/** A slice of the scan on the picture: its number in the file, or its index where the plane cuts all of the file's. */
export interface SliceNumber {
  /** 0-based, as programs count. */
  number: number;
  last: number;
  isOfFile: boolean;
  /** DICOM's own number, as viewers show it; null where the file has none. */
  instance: number | null;
}

/** `ras`: the voxel along the plane's stack, counted toward right, front or head. */
export function sliceNumber(
  plane: Plane,
  ras: number,
  receipt: Receipt,
  instances?: readonly number[] | null,
): SliceNumber {
  const axis = STACKING_AXIS[plane];
  const last = (receipt.shape_zyx[2 - axis] ?? 1) - 1;
  const canonical = axis === 2 ? ras : last - ras; // the program counts toward head, back and left
  if (plane !== receipt.plane) return { number: canonical, last, isOfFile: false, instance: null };
  const isReversed = /^..[IAR]$/.test(String(receipt.stored_orientation ?? ""));
  const number = isReversed ? last - canonical : canonical;
  return { number, last, isOfFile: true, instance: instances?.[number] ?? null };
}

/** A hyphen before a number as the sign it means. */
export const withMinus = (text: string) => text.replace(/-(?=\d)/g, "−");
