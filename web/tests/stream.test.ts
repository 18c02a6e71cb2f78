import { describe, expect, test } from "vitest";
import { Problem } from "../src/problems";
import { readAnswer } from "../src/server";
import { readEvents } from "../src/stream";

async function* bytesOf(...parts: (string | number[])[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield typeof part === "string" ? new TextEncoder().encode(part) : Uint8Array.from(part);
}

async function allOf(events: AsyncIterable<string>): Promise<string[]> {
  const found: string[] = [];
  for await (const event of events) found.push(event);
  return found;
}

describe("events", () => {
  test("cut anywhere, they arrive whole and in order", async () => {
    const text = 'data: {"a":1}\n\n: a comment\n\ndata: two\r\n\r\ndata: [DONE]\n\n';
    for (let cut = 1; cut < text.length; cut++) {
      const found = await allOf(readEvents(bytesOf(text.slice(0, cut), text.slice(cut))));
      expect(found).toEqual(['{"a":1}', "two", "[DONE]"]);
    }
  });
  test("a letter of several bytes survives a cut in its middle", async () => {
    expect(await allOf(readEvents(bytesOf("data: ", [0xc3], [0xa9], "\n\n")))).toEqual(["é"]);
  });
  test("several data lines are one event; the last needs no blank line", async () => {
    expect(await allOf(readEvents(bytesOf("event: x\ndata: a\ndata:b")))).toEqual(["a\nb"]);
  });
});

describe("an answer", () => {
  const chunk = (delta: object, finish: string | null = null) =>
    `data: ${JSON.stringify({ id: "chatcmpl-1", choices: [{ delta, finish_reason: finish }] })}\n\n`;
  const evidence = { scores: [0.9, 0.1], even_share: 0.5, ranges: [] };

  test("its words come one by one, its evidence with the last", async () => {
    const words: string[] = [];
    const stream = bytesOf(
      chunk({ role: "assistant", content: "" }),
      chunk({ content: "left " }),
      chunk({ content: "lung" }),
      chunk(evidence, "stop"),
      "data: [DONE]\n\n",
    );
    const said = await readAnswer(readEvents(stream), (text) => words.push(text));
    expect(words).toEqual(["left ", "lung"]);
    expect(said).toMatchObject({ id: "chatcmpl-1", evidence, isCut: false, confidence: null, abstained: false });
  });
  test("that was cut off says so, and how sure the model is", async () => {
    const stream = bytesOf(
      chunk(
        {
          content: "I do not know.",
          confidence: 0.4,
          confidence_note: "right means near",
          abstained: "low_confidence",
          would_say: "left",
        },
        "length",
      ),
    );
    expect(await readAnswer(readEvents(stream), () => undefined)).toMatchObject({
      isCut: true,
      confidence: 0.4,
      confidenceNote: "right means near",
      abstained: true,
      wouldSay: "left",
    });
  });
  test("a model that weighs no slices gives none", async () => {
    const said = await readAnswer(readEvents(bytesOf(chunk({ content: "yes", scores: [] }, "stop"))), () => undefined);
    expect(said.evidence).toBeNull();
  });
  test("one that breaks off is no answer but a lost connection", async () => {
    await expect(readAnswer(readEvents(bytesOf(chunk({ content: "left" }))), () => undefined)).rejects.toMatchObject({
      status: 0,
    });
  });
  test("an error in the stream is told in the server's words", async () => {
    const stream = bytesOf(chunk({ content: "left" }), 'data: {"error":{"message":"no answer within 60 s"}}\n\n');
    await expect(readAnswer(readEvents(stream), () => undefined)).rejects.toThrow(
      new Problem(500, "no answer within 60 s"),
    );
  });
});
