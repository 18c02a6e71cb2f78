/** How do words arrive one by one? Server-sent events, cut from bytes that may end in the middle of a letter. */

/** The data of each event, in order; ends when the bytes end. */
export async function* readEvents(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of bytes) {
    text += decoder.decode(piece, { stream: true });
    const events = text.split(/\r?\n\r?\n/);
    text = events.pop() ?? "";
    for (const event of events) yield* dataOf(event);
  }
  yield* dataOf(text + decoder.decode());
}

function* dataOf(event: string): Generator<string> {
  const lines = event
    .split(/\r?\n/)
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(5).replace(/^ /, ""));
  if (lines.length > 0) yield lines.join("\n");
}

/** A response body as something `for await` can read in every browser. */
export async function* pieces(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
