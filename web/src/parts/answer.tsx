/** What was answered, and which slices weigh how much in it? */

import { useState } from "preact/hooks";
import { effectiveSlices, headline, heaviest, restOf, shareText } from "../bars";
import type { Evidence } from "../contract";
import {
  askAgain,
  continueAnswer,
  goTo,
  isAnswering,
  notices,
  openAgain,
  settings,
  stacks,
  type Turn,
  volume,
  volumeTitle,
} from "../session";
import { placeName, sliceName, withMinus } from "../space";
import {
  CAVEAT,
  CUT_OFF,
  confidenceText,
  copiedText,
  countingText,
  doubtText,
  markedText,
  questionText,
} from "../wording";
import { ScoreBars } from "./score_bars";
import { notify } from "./toast";

export function Answer({ turn }: { turn: Turn }) {
  const isOpen = turn.state === "waiting" || turn.state === "speaking" || turn.state === "busy";
  const isDone = turn.state === "done";
  const isReport = turn.question === "";
  const isUnsure = isDone && turn.abstained;
  const receipt = volume.value?.receipt;
  const counting = receipt ? countingText(turn.text, receipt.grid.num_slices, receipt.num_source_slices) : null;
  return (
    <article
      class={`turn${isReport ? " report" : ""}${isUnsure ? " unsure" : ""}`}
      data-state={turn.state}
      id={`turn-${turn.key}`}
      onCopy={(event) => {
        const marked = getSelection()?.toString() ?? "";
        if (marked === "" || event.clipboardData === null) return;
        event.clipboardData.setData("text/plain", markedText(marked, notices.value));
        event.preventDefault();
      }}
    >
      <h2 class="question">
        {questionText(turn)}
        {turn.followsUp && <span class="faint"> · follow-up</span>}
      </h2>
      <div class="card">
        {(turn.text !== "" || turn.state === "waiting") && (
          <p class="words">
            {turn.text}
            {isOpen && <span class="caret" role="img" aria-label="answering" />}
            {isDone && turn.isCut && <span class="faint"> …</span>}
          </p>
        )}
        {isUnsure && (
          <p class="doubt-line">
            <b aria-hidden="true">?</b> {doubtText(turn)}
          </p>
        )}
        {isDone && counting !== null && <p class="faint">{counting}</p>}
        {isDone && turn.isCut && <CutOff turn={turn} />}
        {turn.state === "busy" && <p class="faint">{turn.problem}</p>}
        {(turn.state === "failed" || turn.state === "stopped") && <Ended turn={turn} />}
        {isDone && (
          <p class="foot">
            {turn.confidence !== null && (
              <span class="sure" title="How often answers about which the model was as sure as this were right">
                {confidenceText(turn.confidence)}
              </span>
            )}
            <CopyButton turn={turn} />
          </p>
        )}
        {isDone &&
          (turn.evidence === null ? (
            <p class="faint">This model does not weigh slices.</p>
          ) : (
            <Weights turn={turn} evidence={turn.evidence} />
          ))}
      </div>
    </article>
  );
}

function CutOff({ turn }: { turn: Turn }) {
  const most = settings.value?.max_answer_tokens ?? null;
  const isAtLimit = turn.isAtLimit || (most !== null && turn.maxTokens !== null && turn.maxTokens >= most);
  return (
    <p class="cut">
      <span>
        {CUT_OFF}
        {isAtLimit && " The server gives no longer answers; ask for a part of it."}
        {turn.problem !== "" && ` ${turn.problem}`}
      </span>
      {!isAtLimit && (
        <button type="button" disabled={isAnswering.value} onClick={() => void continueAnswer(turn.key)}>
          Continue
        </button>
      )}
    </p>
  );
}

function Ended({ turn }: { turn: Turn }) {
  return (
    <p class={turn.state === "failed" ? "problem" : "faint"}>
      {turn.state === "failed" ? turn.problem : "Stopped."}{" "}
      {turn.isGone ? (
        <button type="button" disabled={isAnswering.value} onClick={() => void openAgain(turn.key)}>
          Open {volumeTitle.value} again and ask
        </button>
      ) : (
        <button type="button" disabled={isAnswering.value} onClick={() => void askAgain(turn.key)}>
          Ask again
        </button>
      )}
    </p>
  );
}

function Weights({ turn, evidence }: { turn: Turn; evidence: Evidence }) {
  const rest = restOf(evidence);
  const widest = Math.max(rest.share, ...evidence.ranges.map(({ share }) => share)) || 1;
  const hasRanges = evidence.ranges.length > 0;
  const top = heaviest(evidence.scores);
  const stack = stacks.value.find(({ first, slices }) => first <= top && top < first + slices.length);
  return (
    <div class="evidence">
      <h3 data-effective={effectiveSlices(evidence).toFixed(2)}>{headline(evidence)}</h3>
      <ul class="ranges">
        {evidence.ranges.map((range) => (
          <li key={range.grid_slices[0]}>
            <button
              type="button"
              title="Show the heaviest slice of this range"
              onClick={() => goTo(turn.key, heaviest(evidence.scores, ...range.grid_slices))}
            >
              <span class="name">{range.name}</span> <span class="where">{withMinus(range.place)}</span>
              <Share share={range.share} widest={widest} />
            </button>
          </li>
        ))}
        {!hasRanges && stack !== undefined && (
          <li>
            <button type="button" title="Show the heaviest slice" onClick={() => goTo(turn.key, top)}>
              <span class="name">heaviest: {sliceName(stack, top, stacks.value.length > 1)}</span>{" "}
              <span class="where">{placeName(stack, top)}</span>
              <Share share={evidence.scores[top] ?? 0} widest={1} />
            </button>
          </li>
        )}
        {hasRanges && rest.count > 0 && (
          <li class="rest">
            <span class="name">the other {rest.count}, not named</span>
            <span class="where" />
            <Share share={rest.share} widest={widest} />
          </li>
        )}
      </ul>
      <div class="charts">
        {stacks.value.map((one) => (
          <ScoreBars
            key={one.first}
            turn={turn.key}
            evidence={evidence}
            stack={one}
            isOneOfMany={stacks.value.length > 1}
          />
        ))}
      </div>
      <p class="legend">
        one bar per slice · <b>- - -</b> even spread 1/{evidence.scores.length} = {shareText(evidence.even_share)}
      </p>
      <p class="caveat">{evidence.evidence_caveat ?? CAVEAT}</p>
    </div>
  );
}

function Share({ share, widest }: { share: number; widest: number }) {
  return (
    <>
      <span class="meter" aria-hidden="true">
        <span style={{ width: `${(100 * share) / widest}%` }} />
      </span>
      <span class="number">{shareText(share)}</span>
    </>
  );
}

function CopyButton({ turn }: { turn: Turn }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(copiedText(turn, notices.value, settings.value?.model ?? ""));
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <button
      type="button"
      class="quiet"
      title="The answer with its question and the notices"
      onClick={() => copy().catch(() => notify("The browser did not allow copying."))}
    >
      {isCopied ? "Copied" : "Copy text"}
    </button>
  );
}
