/** How are scores drawn? One bar per grid slice, the tallest fills the box, the 1/N line shows an even spread. */

import type { Evidence } from "./contract";
import type { Stack } from "./space";

export interface Bar {
  index: number;
  score: number;
  /** 0 to 1 of the box. */
  height: number;
  /** Lies in a range that the answer names. */
  isNamed: boolean;
}

export interface Chart {
  bars: Bar[];
  /** Height of the 1/N line, 0 to 1 of the box. */
  evenHeight: number;
}

/** The bars of one stack; all stacks of an answer share their scale. */
export function chartOf(evidence: Evidence, stack: Stack): Chart {
  const ceiling = Math.max(...evidence.scores, 2 * evidence.even_share);
  const isNamed = (index: number) =>
    evidence.ranges.some(({ grid_slices: [first, last] }) => first <= index && index <= last);
  return {
    evenHeight: evidence.even_share / ceiling,
    bars: stack.slices.map((_, place) => {
      const index = stack.first + place;
      const score = evidence.scores[index] ?? 0;
      return { index, score, height: score / ceiling, isNamed: isNamed(index) };
    }),
  };
}

/** The heaviest slice between two, both included. */
export function heaviest(scores: readonly number[], first = 0, last = scores.length - 1): number {
  let best = first;
  for (let index = first; index <= last; index++) if ((scores[index] ?? 0) > (scores[best] ?? 0)) best = index;
  return best;
}

/** What no named range holds: how many slices, and their share. */
export function restOf(evidence: Evidence): { count: number; share: number } {
  const named = evidence.ranges.reduce((sum, { grid_slices: [first, last] }) => sum + last - first + 1, 0);
  const share = evidence.ranges.reduce((sum, range) => sum + range.share, 0);
  const all = evidence.scores.reduce((sum, score) => sum + score, 0);
  return { count: evidence.scores.length - named, share: Math.max(0, all - share) };
}

/** On how many slices the weight is spread, as if those shared it evenly: exp of the entropy, 1 to N. */
export function effectiveSlices({ scores, effective_slices }: Evidence): number {
  if (effective_slices !== undefined && effective_slices !== null) return effective_slices;
  const all = scores.reduce((sum, score) => sum + score, 0) || 1;
  return Math.exp(-scores.reduce((sum, score) => sum + (score > 0 ? (score / all) * Math.log(score / all) : 0), 0));
}

/** In one line: what weighs most, or that nothing does. Spread is what more than half of the slices share. */
export function headline(evidence: Evidence): string {
  const count = evidence.scores.length;
  if (Math.max(...evidence.scores) <= 1.1 * Math.min(...evidence.scores))
    return `All ${count} slices weigh about alike`;
  const spread = effectiveSlices(evidence);
  if (spread > count / 2) return `Spread out over about ${Math.round(spread)} of ${count} slices`;
  return `Weighs most, in effect about ${Math.round(spread)} of ${count} slices`;
}

/** Which bar lies under a pointer, `along` 0 to 1 of the box's width. */
export function barAt(stack: Stack, along: number): number {
  const count = stack.slices.length;
  return stack.first + Math.min(count - 1, Math.max(0, Math.floor(along * count)));
}

/** `0.41`, and `< 0.01` rather than a nought that is none. */
export function shareText(share: number): string {
  return share > 0 && share < 0.005 ? "< 0.01" : share.toFixed(2);
}
