/** What was answered, and on which slices does it rest? */

import { useState } from "preact/hooks";
import { heaviest, restOf, shareText } from "../bars";
import type { Evidence } from "../contract";
import { askAgain, goTo, isAnswering, stacks, type Turn } from "../session";
import { withMinus } from "../space";
import { ScoreBars } from "./score_bars";
import { notify } from "./toast";

export function Answer({ turn }: { turn: Turn }) {
  const isOpen = turn.state === "waiting" || turn.state === "speaking" || turn.state === "busy";
  const isReport = turn.question === "";
  return (
    <article class={`turn${isReport ? " report" : ""}`} data-state={turn.state}>
      <h2 class="question">
        {isReport ? "Describe the findings" : turn.question}
        {turn.followsUp && <span class="faint"> · follow-up</span>}
      </h2>
      <div class="card">
        {isReport && (
          <header class="row">
            <h3>Report</h3>
            {turn.state === "done" && <CopyButton text={turn.text} />}
          </header>
        )}
        {(turn.text !== "" || turn.state === "waiting") && (
          <p class="words">
            {turn.text}
            {isOpen && <span class="caret" role="img" aria-label="answering" />}
          </p>
        )}
        {turn.state === "busy" && <p class="faint">{turn.problem}</p>}
        {(turn.state === "failed" || turn.state === "stopped") && (
          <p class={turn.state === "failed" ? "problem" : "faint"}>
            {turn.state === "failed" ? turn.problem : "Stopped."}{" "}
            <button type="button" disabled={isAnswering.value} onClick={() => void askAgain(turn.key)}>
              Ask again
            </button>
          </p>
        )}
        {turn.state === "done" &&
          (turn.evidence === null ? (
            <p class="faint">This model does not weigh slices.</p>
          ) : (
            <RestsOn turn={turn} evidence={turn.evidence} />
          ))}
      </div>
    </article>
  );
}

function RestsOn({ turn, evidence }: { turn: Turn; evidence: Evidence }) {
  const rest = restOf(evidence);
  const widest = Math.max(rest.share, ...evidence.ranges.map(({ share }) => share)) || 1;
  const hasRanges = evidence.ranges.length > 0;
  return (
    <div class="evidence">
      <h3>{hasRanges ? "Rests on" : "Rests on no slice more than on others"}</h3>
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
        {rest.count > 0 && (
          <li class="rest">
            <span class="name">{hasRanges ? `the other ${rest.count}` : `all ${rest.count} slices about alike`}</span>
            <span class="where" />
            <Share share={rest.share} widest={widest} />
          </li>
        )}
      </ul>
      <div class="charts">
        {stacks.value.map((stack) => (
          <ScoreBars
            key={stack.first}
            turn={turn.key}
            evidence={evidence}
            stack={stack}
            isOneOfMany={stacks.value.length > 1}
          />
        ))}
      </div>
      <p class="legend">
        one bar per slice · <b>- - -</b> even spread 1/{evidence.scores.length} = {shareText(evidence.even_share)}
      </p>
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

function CopyButton({ text }: { text: string }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <button
      type="button"
      class="quiet"
      onClick={() => copy().catch(() => notify("The browser did not allow copying."))}
    >
      {isCopied ? "Copied" : "Copy text"}
    </button>
  );
}
