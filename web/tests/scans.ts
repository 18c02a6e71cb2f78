/** Small scans for tests. */

import type { GridSlice, Plane, Receipt } from "../src/contract";
import { NEW_TURN, type Turn } from "../src/session";

export function receiptOf(plane: Plane, facts: Partial<Receipt> = {}): Receipt {
  return {
    modality: "CT",
    unit: "HU",
    shape_zyx: [10, 20, 30],
    spacing_mm_zyx: [2.5, 0.8, 0.8],
    plane,
    num_source_slices: 10,
    has_positions: true,
    is_synthetic: true,
    source: { format: "NIfTI-1" },
    warnings: [],
    window: { name: "soft_tissue", low: -160, high: 240, unit: "HU" },
    crop_zyx: [
      [0, 10],
      [0, 20],
      [0, 30],
    ],
    grid: { plane, num_slices: 2, height: 8, width: 8 },
    ...facts,
  };
}

/** Slices at these millimetres along one LPS axis. */
export function slicesAlong(axis: 0 | 1 | 2, places: (number | null)[], plane: Plane | null = null): GridSlice[] {
  return places.map((place, index) => {
    const position: [number, number, number] = [0, 0, 0];
    position[axis] = place ?? 0;
    return { grid_slice: index, source_slices: [index], position_mm: place === null ? null : position, plane };
  });
}

export const turnOf = (key: number, question: string, facts: Partial<Turn> = {}): Turn => ({
  key,
  question,
  followsUp: false,
  ...NEW_TURN,
  state: "done",
  text: `answer ${key}`,
  ...facts,
});
