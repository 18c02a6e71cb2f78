import { expect, test } from "vitest";
import { messagesFor } from "../src/session";
import { turnOf as turn } from "./scans";

const scan = { type: "file", file: { file_id: "vol_1" } };

test("a question stands for itself unless it follows up", () => {
  const turns = [turn(1, "Where?"), turn(2, "How large?", { state: "waiting" })];
  expect(messagesFor("vol_1", turns, 2)).toEqual([
    { role: "user", content: [scan, { type: "text", text: "How large?" }] },
  ]);
});

test("a follow-up brings the answered turns before it, and names the scan first", () => {
  const turns = [
    turn(1, "Where?"),
    turn(2, "What?", { state: "failed" }),
    turn(3, "How large?", { state: "waiting", followsUp: true }),
    turn(4, "later"),
  ];
  expect(messagesFor("vol_1", turns, 3)).toEqual([
    { role: "user", content: [scan, { type: "text", text: "Where?" }] },
    { role: "assistant", content: "answer 1" },
    { role: "user", content: [{ type: "text", text: "How large?" }] },
  ]);
});

test("to describe the findings is a message with the scan and without words", () => {
  expect(messagesFor("vol_1", [turn(1, "")], 1)).toEqual([{ role: "user", content: [scan] }]);
  const later = [turn(1, "Where?"), turn(2, ""), turn(3, "Sure?", { followsUp: true })];
  expect(messagesFor("vol_1", later, 3)[2]).toEqual({ role: "user", content: [scan] });
});
