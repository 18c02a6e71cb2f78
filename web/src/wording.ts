/** What must stand beside an answer wherever it goes? Its certainty, that it was cut off, and the notices. */

import type { Turn } from "./session";

export const CAVEAT =
  "A weight says how much of a slice entered the answer. It does not say that the answer is right, nor that it needs this slice.";
export const CUT_OFF = "The answer was cut off: it is not whole.";
export const SHOULD_NOT =
  "The model should not have answered: the scan or the question is strange to it, or it is not sure.";

/** What an answer that is held back would have said, or that one was given on request. */
export const doubtText = (turn: Pick<Turn, "wouldSay">) =>
  turn.wouldSay === null ? SHOULD_NOT : `Held back, not to be believed: it would have said “${turn.wouldSay}”.`;

/** `confidence 83 %`, as the model states it. */
export const confidenceText = (confidence: number) => `confidence ${Math.round(100 * confidence)} %`;

/** What "slice 31 of 32" counts, where an answer says so: the model has never seen the file's own slices. */
export function countingText(text: string, numSlices: number, numSourceSlices: number): string | null {
  const counted = [...text.matchAll(/\bslices? \d+(?: (?:to|and) \d+)? of (\d+)\b/gi)].map((found) => Number(found[1]));
  if (numSlices === numSourceSlices || !counted.includes(numSlices)) return null;
  return `Counted among the ${numSlices} slices that the model sees, not the file's ${numSourceSlices}.`;
}

export const questionText = (turn: Pick<Turn, "question">) => turn.question || "Describe the findings";

/** An answer for the clipboard: nobody who reads it there sees the page around it. */
export function copiedText(turn: Turn, notices: readonly string[], model: string): string {
  const sure = turn.confidence === null ? [] : [`(${confidenceText(turn.confidence)})`];
  const doubts = [...(turn.abstained ? [doubtText(turn)] : []), ...(turn.isCut ? [CUT_OFF] : [])];
  const signature = model === "" ? [] : [`Answer of the model ${model}.`];
  return [`Question: ${questionText(turn)}`, turn.text, ...sure, ...doubts, "", ...signature, ...notices].join("\n");
}

/** Words that were marked and copied by hand take the notices along too. */
export const markedText = (marked: string, notices: readonly string[]) => [marked.trimEnd(), "", ...notices].join("\n");
