import { describe, expect, test } from "vitest";
import { barAt, chartOf, effectiveSlices, headline, heaviest, restOf, shareText } from "../src/bars";
import type { Evidence } from "../src/contract";
import { stacksOf } from "../src/space";
import { receiptOf, slicesAlong } from "./scans";

const [stack] = stacksOf(slicesAlong(2, [0, 1, 2, 3]), receiptOf("axial"));
if (!stack) throw new Error("one stack");

const evidence: Evidence = {
  scores: [0.05, 0.7, 0.2, 0.05],
  even_share: 0.25,
  ranges: [{ name: "slice 1", place: "z 1 mm", share: 0.7, grid_slices: [1, 1] }],
};

describe("the chart", () => {
  test("the heaviest bar fills the box, and the 1/N line has the same scale", () => {
    const chart = chartOf(evidence, stack);
    expect(chart.bars.map(({ height }) => height)).toEqual([0.05 / 0.7, 1, 0.2 / 0.7, 0.05 / 0.7]);
    expect(chart.evenHeight).toBeCloseTo(0.25 / 0.7);
    expect(chart.bars.map(({ isNamed }) => isNamed)).toEqual([false, true, false, false]);
  });
  test("an even spread stays at half the box, so that it does not look like a peak", () => {
    const chart = chartOf({ scores: [0.25, 0.25, 0.25, 0.25], even_share: 0.25, ranges: [] }, stack);
    expect(chart.bars.every(({ height }) => height === 0.5)).toBe(true);
    expect(chart.evenHeight).toBe(0.5);
  });
  test("the pointer finds its bar, also a little outside", () => {
    expect([-0.1, 0, 0.26, 0.99, 1, 1.2].map((along) => barAt(stack, along))).toEqual([0, 0, 1, 3, 3, 3]);
  });
});

describe("shares", () => {
  test("the heaviest slice of a range", () => {
    expect(heaviest(evidence.scores)).toBe(1);
    expect(heaviest(evidence.scores, 2, 3)).toBe(2);
  });
  test("what no range names", () => {
    const rest = restOf(evidence);
    expect(rest.count).toBe(3);
    expect(rest.share).toBeCloseTo(0.3);
  });
  test("a small share is not shown as none", () => {
    expect([0.412, 0.001, 0].map(shareText)).toEqual(["0.41", "< 0.01", "0.00"]);
  });
});

test("the spread is the number of slices that would share the weight evenly", () => {
  const of = (scores: number[]) => effectiveSlices({ scores, even_share: 1 / scores.length, ranges: [] });
  expect(of([0.25, 0.25, 0.25, 0.25])).toBeCloseTo(4);
  expect(of([0.5, 0.5, 0, 0])).toBeCloseTo(2);
  expect(of([1, 0, 0, 0])).toBeCloseTo(1);
  expect(effectiveSlices({ scores: [0.5, 0.5], even_share: 0.5, ranges: [], effective_slices: 1.4 })).toBe(1.4);
  const said = (scores: number[]) => headline({ scores, even_share: 1 / scores.length, ranges: [] });
  expect(said([0.9, 0.1, 0, 0])).toBe("Weighs most, in effect about 1 of 4 slices");
  expect(said([0.4, 0.3, 0.2, 0.1])).toBe("Spread out over about 4 of 4 slices");
  expect(said([0.25, 0.26, 0.25, 0.24])).toBe("All 4 slices weigh about alike");
});
