/** What went wrong, in words for somebody who never saw an HTTP status? */

export class Problem extends Error {
  /** status: of the HTTP answer; 0 when there was none. retryAfter: seconds the server asks to wait. */
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfter: number | null = null,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

export const NO_CONNECTION = new Problem(0, "no connection");

/** A problem from an answer that is none: the server's own line where it sent one. */
export function problemFrom(status: number, body: string, retryAfter: string | null): Problem {
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  const { message, code } = errorIn(body);
  const wait = Number.isNaN(seconds) ? null : seconds;
  return new Problem(status, message ?? `the server answered ${status}`, wait, code ?? null);
}

function errorIn(body: string): { message?: string; code?: string } {
  try {
    return JSON.parse(body)?.error ?? {};
  } catch {
    return {};
  }
}

/** One or two plain sentences: what happened, what to do. `name`: of the file or scan it is about. */
export function inWords(error: unknown, name = ""): string {
  if (!(error instanceof Problem)) return `Something in this page failed: ${String(error)}`;
  switch (error.status) {
    case 0:
      return "The server does not answer. The connection was lost, or it was stopped; check it and try again.";
    case 408:
    case 504:
      return `This took longer than the server allows, so it gave up. Try again, or ask for something shorter. (${error.message})`;
    case 413:
      return `This scan is too large for this server. ${sentence(error.message, name)}`;
    case 401:
      return `${sentence(error.message)} Whoever runs the server has it.`;
    case 429:
    case 503:
      return `${sentence(error.message, name)} Try again in a moment.`;
    case 404:
      if (error.code === "no_model") return sentence(error.message);
      return `${name || "The scan"} is no longer on the server: it was restarted, or the scan's time ran out. Open it again.`;
    default:
      return sentence(error.message, name);
  }
}

/** The scan is gone from the server, and opening it again is the way on. */
export const isGone = (error: unknown) => error instanceof Problem && error.status === 404 && error.code !== "no_model";

/** Worth asking again by itself after a while. */
export const isBusy = (error: unknown): error is Problem =>
  error instanceof Problem && (error.status === 429 || (error.status === 503 && error.retryAfter !== null));

/** What the server calls an upload (`scan`, `scan.zip`) becomes the name the user knows. */
export function sentence(text: string, name = ""): string {
  const trimmed = text.trim();
  const own = trimmed.replace(/^scan(\.zip)?(?=[:/ ])/, name || "scan").replace(/^scan(\.zip)?: /, "");
  const named = name !== "" && !own.includes(name) ? `${name}: ${own}` : own;
  const ended = /[.!?]$/.test(named) ? named : `${named}.`;
  return named.startsWith(name) && name !== "" ? ended : ended.charAt(0).toUpperCase() + ended.slice(1);
}

export interface Series {
  uid: string;
  facts: string;
}

/** The series among which the server asks to choose: `… series UID: 1.2.3 (CT, chest, 512×512×90); 1.2.4 (…)`. */
export function seriesIn(error: unknown): Series[] {
  if (!(error instanceof Problem) || !/\bseries\b/.test(error.message)) return [];
  const found = [...error.message.matchAll(/(\d+(?:\.\d+){3,}) \(([^)]*)\)/g)];
  return found.map(([, uid = "", facts = ""]) => ({ uid, facts }));
}

/** 2000000000 → `2 GB`. */
export function sizeText(bytes: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${value < 10 && unit > 0 ? Number(value.toFixed(1)) : Math.round(value)} ${units[unit]}`;
}
