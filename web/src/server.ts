/** How does the page talk to its server? Every request of the page is in this file, and all go to the page's own origin. */

import { signal } from "@preact/signals";
import type { Certainty, Chunk, Evidence, Message, Settings, Volume } from "./contract";
import { NO_CONNECTION, Problem, problemFrom } from "./problems";
import { pieces, readEvents } from "./stream";

/** Asked for by the server and not known yet; the dialog answers it. The token lives in memory only. */
export const tokenQuestion = signal<{
  wasWrong: boolean;
  answer: (token: string) => void;
  /** Closed without one: whatever waits for it fails, in words. */
  refuse: () => void;
} | null>(null);
let token = "";

const headers = (): Record<string, string> => (token === "" ? {} : { Authorization: `Bearer ${token}` });

let asking: Promise<void> | null = null;
function askForToken(): Promise<void> {
  asking ??= new Promise<void>((resolve, reject) => {
    const end = (given: string, go: () => void) => {
      token = given;
      tokenQuestion.value = null;
      asking = null;
      go();
    };
    tokenQuestion.value = {
      wasWrong: token !== "",
      answer: (given) => end(given, resolve),
      refuse: () => end("", () => reject(new Problem(401, "this server answers only with its token"))),
    };
  });
  return asking;
}

/** An answer of the server, whatever it says; asks for the token as often as it is refused. */
async function request(path: string, options: RequestInit = {}): Promise<Response> {
  for (;;) {
    const response = await fetch(path, {
      ...options,
      headers: { ...(options.headers as Record<string, string> | undefined), ...headers() },
      cache: "no-store",
      credentials: "same-origin",
    }).catch((error: unknown) => {
      if (options.signal?.aborted) throw error;
      throw NO_CONNECTION;
    });
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    if (!response.ok) throw problemFrom(response.status, await response.text(), response.headers.get("Retry-After"));
    return response;
  }
}

const asJson = (body: unknown): RequestInit => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

export async function readSettings(): Promise<Settings> {
  return (await request("v1/settings")).json();
}

/** Send a scan. `onSent` hears how many bytes are on their way; 1 of 1 means the server is reading. */
export function sendScan(
  file: Blob,
  name: string,
  options: Record<string, string>,
  onSent: (sent: number, total: number) => void,
  stop: AbortSignal,
): Promise<Volume> {
  const form = new FormData();
  for (const [field, value] of Object.entries(options)) if (value !== "") form.append(field, value);
  form.append("file", file, name);
  return new Promise((resolve, reject) => {
    // fetch cannot tell how much of a body is sent
    const call = new XMLHttpRequest();
    call.open("POST", "v1/volumes");
    for (const [key, value] of Object.entries(headers())) call.setRequestHeader(key, value);
    call.upload.onprogress = (event) => onSent(event.loaded, event.total);
    call.onerror = () => reject(NO_CONNECTION);
    call.onabort = () => reject(new DOMException("stopped", "AbortError"));
    call.onload = () => {
      if (call.status === 401) {
        askForToken()
          .then(() => sendScan(file, name, options, onSent, stop))
          .then(resolve, reject);
      } else if (call.status === 201) {
        resolve(JSON.parse(call.responseText));
      } else {
        reject(problemFrom(call.status, call.responseText, call.getResponseHeader("Retry-After")));
      }
    };
    stop.addEventListener("abort", () => call.abort());
    call.send(form);
  });
}

export async function openFromArchive(
  source: string,
  options: Record<string, string>,
  stop: AbortSignal,
): Promise<Volume> {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== ""));
  return (await request("v1/volumes", { ...asJson({ source, ...given }), signal: stop })).json();
}

const placeOf = (id: string) => `v1/volumes/${encodeURIComponent(id)}`;

/** The scan as packed NIfTI, for the viewer. */
export async function readImage(id: string, stop: AbortSignal): Promise<ReadableStream<Uint8Array>> {
  const { body } = await request(`${placeOf(id)}/image`, { signal: stop });
  if (body === null) throw NO_CONNECTION;
  return body;
}

/** Delete a scan; `isLeaving` lets the request outlive the page. */
export async function deleteScan(id: string, isLeaving = false): Promise<void> {
  await request(placeOf(id), { method: "DELETE", keepalive: isLeaving });
}

export type ReportFormat = "html" | "json" | "sr";

export async function readReport(id: string, format: ReportFormat, answerIds: string[]): Promise<Blob> {
  const query = new URLSearchParams({ format, answers: answerIds.join(",") });
  return (await request(`${placeOf(id)}/report?${query}`)).blob();
}

export async function storeReport(id: string, answerIds: string[]): Promise<void> {
  const query = new URLSearchParams({ answers: answerIds.join(",") });
  await request(`${placeOf(id)}/report/store?${query}`, { method: "POST" });
}

export interface Said extends Certainty {
  id: string;
  evidence: Evidence | null;
  /** The answer has as many tokens as it may, and did not end of itself. */
  isCut: boolean;
}

/** Ask, hear the words as they come, and return what stands beside them. `maxTokens` null: the server's usual number. */
export async function ask(
  model: string,
  messages: Message[],
  maxTokens: number | null,
  onWords: (words: string) => void,
  stop: AbortSignal,
): Promise<Said> {
  const length = maxTokens === null ? {} : { max_tokens: maxTokens };
  const response = await request("v1/chat/completions", {
    ...asJson({ model, messages, stream: true, ...length }),
    signal: stop,
  });
  if (response.body === null) throw NO_CONNECTION;
  return readAnswer(readEvents(pieces(response.body)), onWords, () => stop.aborted);
}

/** The end of an answer without its finish is a lost connection, not an answer. */
export async function readAnswer(
  events: AsyncIterable<string>,
  onWords: (words: string) => void,
  isStopped: () => boolean = () => false,
): Promise<Said> {
  const said: Said = {
    id: "",
    evidence: null,
    isCut: false,
    confidence: null,
    confidenceNote: null,
    abstained: false,
    wouldSay: null,
  };
  let isFinished = false;
  try {
    for await (const event of events) {
      if (event === "[DONE]") break;
      const chunk: Chunk = JSON.parse(event);
      if (chunk.error) throw new Problem(500, chunk.error.message);
      said.id ||= chunk.id ?? "";
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) onWords(choice.delta.content);
      if (choice?.delta?.scores?.length) said.evidence = evidenceIn(choice.delta);
      if (choice?.delta?.abstained) said.abstained = true;
      said.wouldSay = choice?.delta?.would_say ?? said.wouldSay;
      said.confidence = choice?.delta?.confidence ?? said.confidence;
      said.confidenceNote = choice?.delta?.confidence_note ?? said.confidenceNote;
      isFinished ||= Boolean(choice?.finish_reason);
      said.isCut ||= choice?.finish_reason === "length";
    }
  } catch (error) {
    if (error instanceof Problem || isStopped()) throw error;
    throw NO_CONNECTION;
  }
  if (!isFinished) throw NO_CONNECTION;
  return said;
}

function evidenceIn(delta: Partial<Evidence>): Evidence {
  const scores = delta.scores ?? [];
  return {
    scores,
    even_share: delta.even_share ?? 1 / scores.length,
    ranges: delta.ranges ?? [],
    effective_slices: delta.effective_slices ?? null,
    evidence_caveat: delta.evidence_caveat ?? null,
  };
}
