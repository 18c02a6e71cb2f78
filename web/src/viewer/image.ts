/**
 * Where is a voxel, and what does a plane look like? A *fraction* is a place from 0 to 1 along right, front and head
 * (RAS); a *pixel* counts from the upper left corner of a plane as radiologists look at it: from the feet, the front and
 * the left, the patient's right on the picture's left, the nose on the left of a sagittal one.
 */

import type { Millimetres, Plane } from "../contract";
import type { Scan } from "./nifti";

export type Fractions = readonly [number, number, number];
export type Axis = 0 | 1 | 2;

/** The RAS axes of a plane's columns, rows and stack; on the picture, columns and rows run against them. */
export const AXES: Record<Plane, { column: Axis; row: Axis; stack: Axis }> = {
  axial: { column: 0, row: 1, stack: 2 },
  coronal: { column: 0, row: 2, stack: 1 },
  sagittal: { column: 1, row: 2, stack: 0 },
};

export interface Grey {
  low: number;
  high: number;
}

export class ScanImage {
  readonly shape: Millimetres;
  readonly spacing: Millimetres;
  private readonly inverse: number[];

  constructor(readonly scan: Scan) {
    this.shape = scan.shape;
    const { affine } = scan;
    const column = (axis: number) => Math.hypot(affine[axis] ?? 0, affine[4 + axis] ?? 0, affine[8 + axis] ?? 0) || 1;
    this.spacing = [column(0), column(1), column(2)];
    this.inverse = inverted(affine);
  }

  /** RAS millimetres of a place. */
  toMm(place: Fractions): Millimetres {
    const voxel = place.map((fraction, axis) => fraction * (this.shape[axis] ?? 1) - 0.5);
    const row = (start: number) =>
      voxel.reduce(
        (sum, value, axis) => sum + value * (this.scan.affine[start + axis] ?? 0),
        this.scan.affine[start + 3] ?? 0,
      );
    return [row(0), row(4), row(8)];
  }

  toFraction(ras: Millimetres): Fractions {
    const offset = ras.map((value, axis) => value - (this.scan.affine[4 * axis + 3] ?? 0));
    const along = (axis: Axis) => {
      const voxel = offset.reduce((sum, value, other) => sum + value * (this.inverse[3 * axis + other] ?? 0), 0);
      return (voxel + 0.5) / (this.shape[axis] ?? 1);
    };
    return [along(0), along(1), along(2)];
  }

  /** Which voxel along an axis holds a place. */
  voxel(axis: Axis, fraction: number): number {
    return Math.min(this.shape[axis] - 1, Math.max(0, Math.floor(fraction * this.shape[axis])));
  }

  value(place: Fractions): number {
    const [i, j, k] = ([0, 1, 2] as const).map((axis) => this.voxel(axis, place[axis])) as [number, number, number];
    return this.at(i, j, k) ?? Number.NaN;
  }

  private at(i: number, j: number, k: number): number | undefined {
    return this.scan.slices[k]?.[i + this.shape[0] * j];
  }

  /** Columns and rows of a plane, and the size of a pixel in mm. */
  sizeOf(plane: Plane): { columns: number; rows: number; columnMm: number; rowMm: number } {
    const { column, row } = AXES[plane];
    return {
      columns: this.shape[column],
      rows: this.shape[row],
      columnMm: this.spacing[column],
      rowMm: this.spacing[row],
    };
  }

  /** Place within a plane → (column, row) in pixels, 0 at the outer edge of the first. */
  toPixel(plane: Plane, place: Fractions): [number, number] {
    const { column, row } = AXES[plane];
    return [(1 - place[column]) * this.shape[column], (1 - place[row]) * this.shape[row]];
  }

  /** The place under a pixel, as deep as `at` lies. */
  fromPixel(plane: Plane, [x, y]: readonly [number, number], at: Fractions): Fractions {
    const { column, row } = AXES[plane];
    const moved: [number, number, number] = [...at];
    moved[column] = 1 - x / this.shape[column];
    moved[row] = 1 - y / this.shape[row];
    return moved;
  }

  /** Voxel indices of a pixel of a plane's slice, and the value there. */
  pixelValue(plane: Plane, slice: number, column: number, row: number): number {
    const axes = AXES[plane];
    const voxel: [number, number, number] = [0, 0, 0];
    voxel[axes.stack] = slice;
    voxel[axes.column] = this.shape[axes.column] - 1 - column;
    voxel[axes.row] = this.shape[axes.row] - 1 - row;
    return this.at(...voxel) ?? Number.NaN;
  }

  /** Grey pixels (RGBA) of one slice of a plane; what has not arrived yet is black. */
  paint(plane: Plane, slice: number, { low, high }: Grey, pixels: Uint32Array): void {
    const axes = AXES[plane];
    const strides = [1, this.shape[0], 0] as const; // within one of the file's slices
    const [columns, rows] = [this.shape[axes.column], this.shape[axes.row]];
    const [across, down] = [strides[axes.column], strides[axes.row]];
    const scale = 255 / (high - low || 1);
    for (let row = 0, pixel = 0; row < rows; row++) {
      const upward = rows - 1 - row;
      const voxels = this.scan.slices[axes.stack === 2 ? slice : upward];
      if (voxels === undefined) {
        pixels.fill(0xff000000, pixel, pixel + columns);
        pixel += columns;
        continue;
      }
      let place = slice * strides[axes.stack] + upward * down + (columns - 1) * across;
      for (let column = 0; column < columns; column++, place -= across) {
        const shade = ((voxels[place] as number) - low) * scale;
        const grey = shade <= 0 ? 0 : shade >= 255 ? 255 : (shade + 0.5) | 0;
        pixels[pixel++] = 0xff000000 | (grey * 0x010101);
      }
    }
  }
}

/** The inverse of the 3×3 part, row by row. */
function inverted(affine: readonly number[]): number[] {
  const m = (row: number, column: number) => affine[4 * (row % 3) + (column % 3)] ?? 0;
  const minor = (row: number, column: number) =>
    m(row + 1, column + 1) * m(row + 2, column + 2) - m(row + 1, column + 2) * m(row + 2, column + 1);
  const determinant = m(0, 0) * minor(0, 0) + m(0, 1) * minor(0, 1) + m(0, 2) * minor(0, 2) || 1;
  return Array.from({ length: 9 }, (_, place) => minor(place % 3, Math.floor(place / 3)) / determinant);
}
