/** What is open, what was asked, where does the crosshair stand? The page's state, and all that can be done with it. */

import { computed, signal } from "@preact/signals";
import { heaviest } from "./bars";
import type { Evidence, Message, Settings, Volume } from "./contract";
import { inWords, isBusy, isGone, type Problem, type Series, sentence, seriesIn } from "./problems";
import * as server from "./server";
import { type Mark, marksOf, stacksOf } from "./space";
import type { Fractions } from "./viewer/image";
import { crosshair, image, isShown, isWhole, moveTo, moveToMark } from "./viewer/view";

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
  /** Empty where the server does not keep it (any more). */
  answerId: string;
  evidence: Evidence | null;
  problem: string;
  /** Ended by the greatest number of tokens: `maxTokens`, null for the server's usual one. */
  isCut: boolean;
  maxTokens: number | null;
  /** More was asked for, and nothing more came. */
  isAtLimit: boolean;
  confidence: number | null;
  confidenceNote: string | null;
  abstained: boolean;
  wouldSay: string | null;
  /** The scan is gone from the server. */
  isGone: boolean;
}

export const NEW_TURN: Omit<Turn, "key" | "question" | "followsUp"> = {
  state: "waiting",
  text: "",
  answerId: "",
  evidence: null,
  problem: "",
  isCut: false,
  maxTokens: null,
  isAtLimit: false,
  confidence: null,
  confidenceNote: null,
  abstained: false,
  wouldSay: null,
  isGone: false,
};

const MAX_TRIES = 5;
/** How much more a *Continue* asks for. */
const GROWTH = 3;

export const settings = signal<Settings | null>(null);
export const settingsProblem = signal("");
export const stage = signal<Stage>({ name: "welcome", problem: "" });
/** How files are read where they do not say it themselves; the fields of the upload. */
export const readingOptions = signal<Record<string, string>>({});
export const turns = signal<Turn[]>([]);
/** The bar that was chosen last, and of which answer. */
export const chosen = signal<{ turn: number; slice: number } | null>(null);
export const news = signal("");

export const volume = computed(() => (stage.value.name === "open" ? stage.value.volume : null));
export const stacks = computed(() =>
  volume.value === null ? [] : stacksOf(volume.value.grid_slices, volume.value.receipt),
);
/** Where each grid slice cuts the picture. */
export const marks = computed((): readonly Mark[] => {
  const shown = image.value;
  if (volume.value === null || shown === null) return [];
  return marksOf(volume.value.grid_slices, volume.value.receipt, (ras) => shown.toFraction(ras));
});
/** Too small for three planes beside each other. */
const smallScreen = typeof matchMedia === "undefined" ? null : matchMedia("(max-width: 40rem), (max-height: 31.25rem)");
export const isSmall = signal(smallScreen?.matches ?? false);
smallScreen?.addEventListener("change", (event) => {
  isSmall.value = event.matches;
});
export const notices = computed(() => [
  ...new Set([...(settings.value?.notices ?? []), ...(volume.value?.notices ?? [])]),
]);
export const isAnswering = computed(() =>
  turns.value.some(({ state }) => state === "waiting" || state === "busy" || state === "speaking"),
);
export const answerIds = computed(() =>
  turns.value.filter(({ state, answerId }) => state === "done" && answerId !== "").map(({ answerId }) => answerId),
);

export const volumeTitle = computed(() => (stage.value.name === "open" ? stage.value.title : ""));
/** Answers that nobody but this page has. */
export const hasAnswers = computed(() => turns.value.some(({ state }) => state === "done"));
/** The latest answer that weighs slices, and the slice it weighs most. */
export const heaviestPlace = computed(() => {
  const latest = turns.value.findLast(({ state, evidence }) => state === "done" && evidence !== null);
  return latest?.evidence ? { turn: latest.key, slice: heaviest(latest.evidence.scores) } : null;
});

let opened: { scan: ScanSource; options: Record<string, string> } | null = null;
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
  const title = titleOf(scan);
  const progress = (sent: number, total: number) => {
    stage.value = { name: "sending", title, sent, total, stop: () => control.abort() };
  };
  progress(0, "file" in scan ? scan.file.size : 0);
  try {
    const found = await send(scan, options, progress, control.signal);
    if (control.signal.aborted) {
      await server.deleteScan(found.id);
      return;
    }
    opened = { scan, options };
    stage.value = { name: "open", volume: found, title, isFromArchive: "source" in scan };
  } catch (error) {
    const found = seriesIn(error);
    if (control.signal.aborted) stage.value = { name: "welcome", problem: "" };
    else if (found.length > 1) stage.value = { name: "welcome", problem: "", choice: { scan, series: found } };
    else stage.value = { name: "welcome", problem: inWords(error, title) };
  }
}

const titleOf = (scan: ScanSource) => ("file" in scan ? scan.name : "scan from the archive");

function send(
  scan: ScanSource,
  options: Record<string, string>,
  onSent: (sent: number, total: number) => void,
  stop: AbortSignal,
): Promise<Volume> {
  return "file" in scan
    ? server.sendScan(scan.file, scan.name, options, onSent, stop)
    : server.openFromArchive(scan.source, options, stop);
}

/** The server forgot the scan: send it again and ask again; picture and answers stay where they are. */
export async function openAgain(key: number): Promise<void> {
  const now = stage.value;
  if (now.name !== "open" || opened === null || isAnswering.value) return;
  const control = new AbortController();
  stopAnswer = control;
  change(key, { ...NEW_TURN, state: "busy", problem: `Opening ${now.title} again …` });
  try {
    const found = await send(opened.scan, opened.options, () => undefined, control.signal);
    turns.value = turns.value.map((turn) => ({ ...turn, answerId: "" })); // what the server kept of them is gone
    stage.value = { ...now, volume: { ...found, receipt: now.volume.receipt } };
  } catch (error) {
    const problem = isGone(error) ? inWords(error) : inWords(error, now.title);
    change(
      key,
      control.signal.aborted ? { state: "stopped", isGone: true } : { state: "failed", problem, isGone: true },
    );
    return;
  }
  await answer(key);
}

/** Forget the scan here and on the server. */
export async function closeScan(): Promise<void> {
  const open = volume.value;
  stop();
  opened = null;
  turns.value = [];
  chosen.value = null;
  beforePeek = null;
  isShown.value = true;
  stage.value = { name: "welcome", problem: "" };
  if (open === null) return;
  try {
    await server.deleteScan(open.id);
    news.value = "The scan is deleted from the server.";
  } catch (error) {
    if (!isGone(error)) stage.value = { name: "welcome", problem: `The scan could not be deleted. ${inWords(error)}` };
  }
}

/** The page is left: the scan must not outlive it on the server. */
export function leave(): void {
  const open = volume.value;
  if (open !== null) void server.deleteScan(open.id, true).catch(() => undefined);
}

/** Ask; an empty question is answered by a description of the findings, which always stands for itself. */
export async function ask(question: string, followsUp = false): Promise<void> {
  if (volume.value === null || isAnswering.value) return;
  const key = nextKey++;
  const before = turns.value;
  turns.value = [...before, { ...NEW_TURN, key, question, followsUp: followsUp && question !== "" }];
  await answer(key);
}

/** Ask a failed or stopped question again, in its place. */
export async function askAgain(key: number): Promise<void> {
  if (isAnswering.value) return;
  change(key, NEW_TURN);
  await answer(key);
}

/** An answer that was cut off: ask for it once more, longer. The same words come first, so they stay on the page. */
export async function continueAnswer(key: number): Promise<void> {
  const cut = turns.value.find((turn) => turn.key === key);
  if (cut === undefined || isAnswering.value) return;
  const most = settings.value?.max_answer_tokens ?? Number.POSITIVE_INFINITY;
  change(key, {
    state: "speaking",
    maxTokens: Math.min(most, GROWTH * (cut.maxTokens ?? settings.value?.default_answer_tokens ?? 160)),
  });
  await answer(key, cut);
}

/** `cut`: the answer as it stands, which is kept until there is more, and where no more can be had. */
async function answer(key: number, cut: Turn | null = null): Promise<void> {
  const open = volume.value;
  if (open === null) return;
  const control = new AbortController();
  stopAnswer = control;
  const messages = messagesFor(open.id, turns.value, key);
  const maxTokens = turns.value.find((turn) => turn.key === key)?.maxTokens ?? null;
  const shown = cut?.text ?? "";
  for (let tries = 1; ; tries++) {
    let text = "";
    const hear = (words: string) => {
      text += words;
      change(key, { state: "speaking", text: text.length > shown.length ? text : shown });
    };
    try {
      const said = await server.ask(settings.value?.model ?? "", messages, maxTokens, hear, control.signal);
      const { id: answerId, ...facts } = said;
      const isAtLimit = facts.isCut && cut !== null && text.length <= shown.length;
      change(key, { ...facts, state: "done", text, answerId, isAtLimit });
      return;
    } catch (error) {
      if (cut !== null) {
        change(key, { ...cut, problem: control.signal.aborted ? "" : inWords(error, volumeTitle.value) });
        return;
      }
      if (control.signal.aborted) {
        change(key, { state: "stopped" });
        return;
      }
      if (!isBusy(error) || tries === MAX_TRIES || !(await waitBusy(key, error, control.signal))) {
        const problem = inWords(error, volumeTitle.value);
        change(
          key,
          control.signal.aborted ? { state: "stopped" } : { state: "failed", problem, isGone: isGone(error) },
        );
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
    { role: "assistant", content: turn.wouldSay ?? turn.text },
  ]);
  messages.push({ role: "user", content: all[last]?.question ?? "" });
  return messages.map((message, index): Message => {
    if (message.role === "assistant") return message;
    const text = typeof message.content === "string" && message.content !== "" ? message.content : null;
    const scan = index === 0 || text === null ? [{ type: "file" as const, file: { file_id: id } }] : [];
    return { role: "user", content: [...scan, ...(text === null ? [] : [{ type: "text" as const, text }])] };
  });
}

function change(key: number, facts: Partial<Turn>): void {
  turns.value = turns.value.map((turn) => (turn.key === key ? { ...turn, ...facts } : turn));
}

async function waitBusy(key: number, why: Problem, signal: AbortSignal): Promise<boolean> {
  for (let left = Math.max(1, Math.ceil(why.retryAfter ?? 2)); left > 0; left--) {
    change(key, { state: "busy", problem: `${sentence(why.message)} Asking again in ${left} s.` });
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
  if (!isWhole.value || mark === undefined) return;
  beforePeek ??= crosshair.value;
  moveToMark(mark);
}

/** The pointer left the bars: go back to where the crosshair was. */
export function endPeek(): void {
  if (beforePeek !== null) moveTo(beforePeek);
  beforePeek = null;
}

/** Go to a slice and stay there. */
export function goTo(turn: number, slice: number): void {
  const mark = marks.value[slice];
  chosen.value = { turn, slice };
  isShown.value = true;
  if (mark === undefined) return;
  moveToMark(mark);
  beforePeek = beforePeek === null ? null : crosshair.value;
}

/** The slice that the latest answer weighs most. */
export function goToHeaviest(): void {
  const found = heaviestPlace.value;
  if (found !== null) goTo(found.turn, found.slice);
}
