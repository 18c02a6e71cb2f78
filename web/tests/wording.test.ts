import { expect, test } from "vitest";
import { CUT_OFF, copiedText, markedText, SHOULD_NOT } from "../src/wording";
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
