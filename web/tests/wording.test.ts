import { expect, test } from "vitest";
import { CUT_OFF, copiedText, markedText, NOT_SURE } from "../src/wording";
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
  expect(text).toContain(NOT_SURE);
  expect(text).toContain("confidence 42 %");
});

test("words marked by hand take the notices along", () => {
  expect(markedText("left lung\n", NOTICES)).toBe(["left lung", "", ...NOTICES].join("\n"));
});
