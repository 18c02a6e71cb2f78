import { expect, test } from "vitest";
import { CUT_OFF, copiedText, countingText, markedText, SHOULD_NOT } from "../src/wording";
import { turnOf } from "./scans";

const NOTICES = ["For research use only.", "tiny was trained on synthetic CT only."];

test("a copied answer takes its question, its model and every notice along", () => {
  const lines = copiedText(turnOf(1, "Where?", { text: "left lung" }), NOTICES, "tiny").split("\n");
  expect(lines).toEqual(["Question: Where?", "left lung", "", "Answer of the model tiny.", ...NOTICES]);
});

test("a copied answer says that it was cut off, and how sure the model was", () => {
  const text = copiedText(turnOf(1, "", { text: "left", isCut: true, confidence: 0.423, abstained: true }), [], "");
  expect(text).toContain("Question: Describe the findings");
  expect(text).toContain(CUT_OFF);
  expect(text).toContain(SHOULD_NOT);
  expect(text).toContain("confidence 42 %");
});

test("a copied answer that is held back keeps what it would have said, marked", () => {
  const held = { text: "I do not know: strange.", abstained: true, wouldSay: "left lung" };
  const text = copiedText(turnOf(1, "Where?", held), [], "");
  expect(text).toContain("I do not know: strange.");
  expect(text).toContain("not to be believed: it would have said “left lung”");
});

test("words marked by hand take the notices along", () => {
  expect(markedText("left lung\n", NOTICES)).toBe(["left lung", "", ...NOTICES].join("\n"));
});

test("slices that are counted in the model's grid are not taken for the file's", () => {
  for (const text of ["slice 32 of 32", "Slices 4 to 7 of 32", "slices 1 and 2 of 32: the larynx."]) {
    expect(countingText(text, 32, 61)).toBe("Counted among the 32 slices that the model sees, not the file's 61.");
    expect(countingText(text, 32, 32)).toBeNull();
  }
  for (const text of ["12 of 32 patients", "slice 3 of 61", "the larynx"])
    expect(countingText(text, 32, 61)).toBeNull();
});
