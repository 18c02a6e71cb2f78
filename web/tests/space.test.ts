import { describe, expect, test } from "vitest";
import type { GridSlice, Millimetres, Receipt } from "../src/contract";
import { flipToRas, marksOf, nearestSlice, placeName, sliceName, stacksOf, withMinus } from "../src/space";
import { receiptOf, slicesAlong } from "./scans";

describe("from LPS to RAS", () => {
  test("x and y change sign, z does not", () => {
    expect(flipToRas([12, -34, 56])).toEqual([-12, 34, 56]);
  });
  test("twice is nothing, and nought has no sign", () => {
    const there: Millimetres = [0, 7.5, -1];
    expect(flipToRas(flipToRas(there))).toEqual(there);
    expect(Object.is(flipToRas(there)[0], 0)).toBe(true);
  });
});

describe("where slices cut the scan", () => {
  const toFraction = ([x, y, z]: Millimetres) => [x / 1000, y / 1000, z / 1000];

  test("an axial slice is asked of the viewer in RAS, along the third axis", () => {
    const marks = marksOf(slicesAlong(2, [100, 200]), receiptOf("axial"), toFraction);
    expect(marks).toEqual([
      { axis: 2, fraction: 0.1 },
      { axis: 2, fraction: 0.2 },
    ]);
  });
  test("a sagittal slice at LPS +100 lies at RAS −100", () => {
    expect(marksOf(slicesAlong(0, [100]), receiptOf("sagittal"), toFraction)).toEqual([{ axis: 0, fraction: -0.1 }]);
  });
  test("without geometry the crop in voxels says where: axial upward", () => {
    const receipt = receiptOf("axial", {
      shape_zyx: [40, 10, 10],
      crop_zyx: [
        [10, 30],
        [0, 10],
        [0, 10],
      ],
    });
    const marks = marksOf(slicesAlong(2, [null, null]), receipt, toFraction);
    expect(marks.map(({ fraction }) => fraction)).toEqual([15 / 40, 25 / 40]);
  });
  test("without geometry a sagittal stack runs from right, which is 1 in RAS, to left", () => {
    const receipt = receiptOf("sagittal", {
      shape_zyx: [10, 10, 40],
      crop_zyx: [
        [0, 10],
        [0, 10],
        [0, 40],
      ],
    });
    const marks = marksOf(slicesAlong(0, [null, null]), receipt, toFraction);
    expect(marks.map(({ fraction }) => fraction)).toEqual([0.75, 0.25]);
  });
  test("slices of several planes become one stack each", () => {
    const slices = [...slicesAlong(2, [1, 2], "axial"), ...slicesAlong(1, [1, 2], "coronal")];
    const stacks = stacksOf(slices, receiptOf("axial"));
    expect(stacks.map(({ plane, first, slices: own }) => [plane, first, own.length])).toEqual([
      ["axial", 0, 2],
      ["coronal", 2, 2],
    ]);
    expect(marksOf(slices, receiptOf("axial"), toFraction)[3]).toEqual({ axis: 1, fraction: -0.002 });
  });
  test("the nearest slice is the nearest of its own stack only", () => {
    const slices = [...slicesAlong(2, [100, 200], "axial"), ...slicesAlong(1, [-500, -600], "coronal")];
    const receipt = receiptOf("axial");
    const marks = marksOf(slices, receipt, toFraction);
    const [axial, coronal] = stacksOf(slices, receipt);
    if (!axial || !coronal) throw new Error("two stacks");
    expect(nearestSlice(marks, axial, [0.5, 0.5, 0.19])).toBe(1);
    expect(nearestSlice(marks, coronal, [0.5, 0.59, 0.19])).toBe(3);
    expect(nearestSlice([], axial, [0, 0, 0])).toBeNull();
  });
});

describe("how slices are named", () => {
  const stackOf = (slices: GridSlice[], receipt: Receipt = receiptOf("axial")) => {
    const [stack] = stacksOf(slices, receipt);
    if (!stack) throw new Error("one stack");
    return stack;
  };
  test("by the file's own numbers", () => {
    const stack = stackOf([
      { grid_slice: 0, source_slices: [71, 72, 73], position_mm: [0, 0, -214], plane: null },
      { grid_slice: 1, source_slices: [74], position_mm: [0, 0, -202.4], plane: null },
    ]);
    expect(sliceName(stack, 0)).toBe("slices 71–73");
    expect(sliceName(stack, 1, true)).toBe("axial slice 74");
    expect(placeName(stack, 1)).toBe("z −202 mm");
  });
  test("as cuts where each crosses every slice of the file", () => {
    const slices = [0, 1].map((index) => ({
      grid_slice: index,
      source_slices: [0, 1, 2],
      position_mm: null,
      plane: null,
    }));
    expect(sliceName(stackOf(slices), 1)).toBe("cut 1 of 2");
    expect(placeName(stackOf(slices), 1)).toBe("");
  });
  test("with a minus for a hyphen before digits only", () => {
    expect(withMinus("z -214…-202 mm, non-contrast")).toBe("z −214…−202 mm, non-contrast");
  });
});
