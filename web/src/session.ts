/** What is open, what was asked, where does the crosshair stand? The page's state, and all that can be done with it. */

import { computed, signal } from "@preact/signals";
import type { Evidence, Message, Settings, Volume } from "./contract";
import { inWords, Problem, type Series, seriesIn } from "./problems";
import * as server from "./server";
import { type Mark, marksOf, stacksOf } from "./space";
import type { Fractions, Place, Scene } from "./viewer/scene";

export type Stage =
  | { name: "welcome"; problem: string; choice?: Choice }
  | { name: "sending"; title: string; sent: number; total: number; stop: () => void }
  | { name: "open"; volume: Volume; title: string; isFromArchive: boolean };

export type ScanSource = { file: Blob; name: string } | { source: string };

/** What was sent holds several series: one of them is wanted. */
export interface Choice {
  scan: ScanSource;
  series: Series[];
}

export interface Turn {
  key: number;
  /** Empty: describe the findings. */
  question: string;
  /** The model reads the turns before it too. */
  followsUp: boolean;
  state: "waiting" | "busy" | "speaking" | "done" | "stopped" | "failed";
  text: string;
  answerId: string;
  evidence: Evidence | null;
  problem: string;
}

const MAX_TRIES = 5;

export const settings = signal<Settings | null>(null);
export const settingsProblem = signal("");
export const stage = signal<Stage>({ name: "welcome", problem: "" });
/** How files are read where they do not say it themselves; the fields of the upload. */
export const readingOptions = signal<Record<string, string>>({});
export const turns = signal<Turn[]>([]);
export const place = signal<Place | null>(null);
export const marks = signal<readonly Mark[]>([]);
/** The bar that was chosen last, and of which answer. */
export const chosen = signal<{ turn: number; slice: number } | null>(null);
export const news = signal("");

export const volume = computed(() => (stage.value.name === "open" ? stage.value.volume : null));
export const stacks = computed(() =>
  volume.value === null ? [] : stacksOf(volume.value.grid_slices, volume.value.receipt),
);
export const notices = computed(() => [
  ...new Set([...(settings.value?.notices ?? []), ...(volume.value?.notices ?? [])]),
]);
export const isAnswering = computed(() =>
  turns.value.some(({ state }) => state === "waiting" || state === "busy" || state === "speaking"),
);
export const answerIds = computed(() =>
  turns.value.filter(({ state, answerId }) => state === "done" && answerId !== "").map(({ answerId }) => answerId),
);

let scene: Scene | null = null;
let stopAnswer: AbortController | null = null;
let nextKey = 1;

export async function start(): Promise<void> {
  settingsProblem.value = "";
  try {
    settings.value = await server.readSettings();
  } catch (error) {
    settingsProblem.value = inWords(error);
  }
}

/** Upload a scan, or name one in an archive, and open it. */
export async function openScan(scan: ScanSource, series = ""): Promise<void> {
  await closeScan();
  const control = new AbortController();
  const options = series === "" ? readingOptions.value : { ...readingOptions.value, series };
  const title = "file" in scan ? scan.name : "scan from the archive";
  const progress = (sent: number, total: number) => {
    stage.value = { name: "sending", title, sent, total, stop: () => control.abort() };
  };
  progress(0, "file" in scan ? scan.file.size : 0);
  try {
    const opened =
      "file" in scan
        ? await server.sendScan(scan.file, scan.name, options, progress, control.signal)
        : await server.openFromArchive(scan.source, options, control.signal);
    if (control.signal.aborted) {
      await server.deleteScan(opened.id);
      return;
    }
    stage.value = { name: "open", volume: opened, title, isFromArchive: "source" in scan };
  } catch (error) {
    const found = seriesIn(error);
    if (control.signal.aborted) stage.value = { name: "welcome", problem: "" };
    else if (found.length > 1) stage.value = { name: "welcome", problem: "", choice: { scan, series: found } };
    else stage.value = { name: "welcome", problem: inWords(error) };
  }
}

/** Forget the scan here and on the server. */
export async function closeScan(): Promise<void> {
  const open = volume.value;
  stop();
  scene = null;
  turns.value = [];
  marks.value = [];
  place.value = null;
  chosen.value = null;
  stage.value = { name: "welcome", problem: "" };
  if (open === null) return;
  try {
    await server.deleteScan(open.id);
    news.value = "The scan is deleted from the server.";
  } catch (error) {
    const isGone = error instanceof Problem && error.status === 404;
    if (!isGone) stage.value = { name: "welcome", problem: `The scan could not be deleted. ${inWords(error)}` };
  }
}

/** The page is left: the scan must not outlive it on the server. */
export function leave(): void {
  const open = volume.value;
  if (open !== null) void server.deleteScan(open.id, true).catch(() => undefined);
}

/** The viewer has drawn the scan; from now on bars and crosshair know of each other. */
export function connect(drawn: Scene): void {
  const open = volume.value;
  if (open === null) return;
  scene = drawn;
  marks.value = marksOf(open.grid_slices, open.receipt, (ras) => drawn.toFraction(ras));
}

/** Ask; an empty question is answered by a description of the findings, which always stands for itself. */
export async function ask(question: string, followsUp = false): Promise<void> {
  if (volume.value === null || isAnswering.value) return;
  const key = nextKey++;
  const before = turns.value;
  turns.value = [
    ...before,
    {
      key,
      question,
      followsUp: followsUp && question !== "",
      state: "waiting",
      text: "",
      answerId: "",
      evidence: null,
      problem: "",
    },
  ];
  await answer(key);
}

/** Ask a failed or stopped question again, in its place. */
export async function askAgain(key: number): Promise<void> {
  if (isAnswering.value) return;
  change(key, { state: "waiting", text: "", problem: "", evidence: null });
  await answer(key);
}

async function answer(key: number): Promise<void> {
  const open = volume.value;
  if (open === null) return;
  const control = new AbortController();
  stopAnswer = control;
  const messages = messagesFor(open.id, turns.value, key);
  for (let tries = 1; ; tries++) {
    try {
      const said = await server.ask(settings.value?.model ?? "", messages, (words) => hear(key, words), control.signal);
      change(key, { state: "done", answerId: said.id, evidence: said.evidence });
      return;
    } catch (error) {
      if (control.signal.aborted) {
        change(key, { state: "stopped" });
        return;
      }
      const isBusy = error instanceof Problem && error.status === 429;
      if (!isBusy || tries === MAX_TRIES || !(await waitBusy(key, error.retryAfter ?? 2, control.signal))) {
        change(key, control.signal.aborted ? { state: "stopped" } : { state: "failed", problem: inWords(error) });
        return;
      }
    }
  }
}

export function stop(): void {
  stopAnswer?.abort();
  stopAnswer = null;
}

/** A question, after the turns it follows up, the scan named in the first message. */
export function messagesFor(id: string, all: readonly Turn[], key: number): Message[] {
  const last = all.findIndex((turn) => turn.key === key);
  const heard = all[last]?.followsUp ? all.slice(0, last).filter((turn) => turn.state === "done") : [];
  const messages: Message[] = heard.flatMap((turn): Message[] => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.text },
  ]);
  messages.push({ role: "user", content: all[last]?.question ?? "" });
  return messages.map((message, index): Message => {
    if (message.role === "assistant") return message;
    const text = typeof message.content === "string" && message.content !== "" ? message.content : null;
    const scan = index === 0 || text === null ? [{ type: "file" as const, file: { file_id: id } }] : [];
    return { role: "user", content: [...scan, ...(text === null ? [] : [{ type: "text" as const, text }])] };
  });
}

function hear(key: number, words: string): void {
  turns.value = turns.value.map((turn) =>
    turn.key === key ? { ...turn, state: "speaking", text: turn.text + words } : turn,
  );
}

function change(key: number, facts: Partial<Turn>): void {
  turns.value = turns.value.map((turn) => (turn.key === key ? { ...turn, ...facts } : turn));
}

async function waitBusy(key: number, seconds: number, signal: AbortSignal): Promise<boolean> {
  for (let left = Math.max(1, Math.ceil(seconds)); left > 0; left--) {
    change(key, { state: "busy", problem: `The server is busy with other questions; asking again in ${left} s.` });
    await new Promise<void>((resolve) => {
      setTimeout(resolve, 1000);
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    if (signal.aborted) return false;
  }
  change(key, { state: "waiting", problem: "" });
  return true;
}

let beforePeek: Fractions | null = null;

/** Look at a slice while the pointer is over its bar. */
export function peek(slice: number): void {
  const mark = marks.value[slice];
  if (scene === null || mark === undefined) return;
  beforePeek ??= scene.place.fractions;
  scene.moveToMark(mark);
}

/** The pointer left the bars: go back to where the crosshair was. */
export function endPeek(): void {
  if (scene !== null && beforePeek !== null) scene.moveTo(beforePeek);
  beforePeek = null;
}

/** Go to a slice and stay there. */
export function goTo(turn: number, slice: number): void {
  const mark = marks.value[slice];
  chosen.value = { turn, slice };
  if (scene === null || mark === undefined) return;
  scene.moveToMark(mark);
  beforePeek = beforePeek === null ? null : scene.place.fractions;
}
