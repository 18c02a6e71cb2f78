/** How long is that, and what is inside it? Lengths in mm, regions (ellipses) in mm² with their grey values. */

import type { Plane } from "../contract";
import type { ScanImage } from "./image";

/** A corner in pixels of its plane, 0 at the outer edge of the first. */
export type Corner = readonly [x: number, y: number];

export interface Measure {
  key: number;
  kind: "length" | "region";
  plane: Plane;
  /** The voxel along the plane's stack on which it lies. */
  slice: number;
  ends: readonly [Corner, Corner];
}

export interface RegionFacts {
  count: number;
  area: number;
  mean: number;
  deviation: number;
  low: number;
  high: number;
}

type Drawn = Pick<Measure, "plane" | "slice" | "ends">;

/** In mm; in pixels' own widths where a pixel's size is not known, since its sides are then 1. */
export function lengthOf(image: ScanImage, { plane, ends: [[x0, y0], [x1, y1]] }: Drawn): number {
  const { columnMm, rowMm } = image.sizeOf(plane);
  return Math.hypot((x1 - x0) * columnMm, (y1 - y0) * rowMm);
}

/** Of the voxels whose centres lie inside the ellipse; null where none does. The deviation is the population's. */
export function regionOf(image: ScanImage, { plane, slice, ends: [[x0, y0], [x1, y1]] }: Drawn): RegionFacts | null {
  const { columns, rows, columnMm, rowMm } = image.sizeOf(plane);
  const [middleX, middleY] = [(x0 + x1) / 2, (y0 + y1) / 2];
  const [radiusX, radiusY] = [Math.abs(x1 - x0) / 2, Math.abs(y1 - y0) / 2];
  const facts = { count: 0, mean: 0, low: Number.POSITIVE_INFINITY, high: Number.NEGATIVE_INFINITY };
  let squares = 0;
  for (let row = first(y0, y1); row < Math.min(rows, Math.max(y0, y1)); row++) {
    for (let column = first(x0, x1); column < Math.min(columns, Math.max(x0, x1)); column++) {
      if (((column + 0.5 - middleX) / radiusX) ** 2 + ((row + 0.5 - middleY) / radiusY) ** 2 > 1) continue;
      const value = image.pixelValue(plane, slice, column, row);
      facts.count++;
      const step = value - facts.mean;
      facts.mean += step / facts.count;
      squares += step * (value - facts.mean);
      facts.low = Math.min(facts.low, value);
      facts.high = Math.max(facts.high, value);
    }
  }
  if (facts.count === 0) return null;
  return { ...facts, area: facts.count * columnMm * rowMm, deviation: Math.sqrt(squares / facts.count) };
}

const first = (a: number, b: number) => Math.max(0, Math.floor(Math.min(a, b)));

/** `42.1 mm`, or `mean 54 ± 12 HU, 20 to 91, 318 mm²`; lines for a picture or one for a list. */
export function measureLines(image: ScanImage, measure: Measure, unit: string, knowsSize: boolean): string[] {
  const of = (value: number) => value.toFixed(1).replace("-", "−");
  if (measure.kind === "length") return [`${of(lengthOf(image, measure))} ${knowsSize ? "mm" : "voxels"}`];
  const facts = regionOf(image, measure);
  if (facts === null) return ["no voxel inside"];
  const words = unit === "arbitrary" ? "" : ` ${unit}`;
  return [
    `mean ${of(facts.mean)} ± ${of(facts.deviation)}${words}`,
    `${of(facts.low)} to ${of(facts.high)}${words}`,
    knowsSize ? `${of(facts.area)} mm²` : `${facts.count} voxels`,
  ];
}
