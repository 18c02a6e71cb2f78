/** How do question and answer follow each other? First what was read, then turn by turn, the composer below. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Volume } from "../contract";
import { plainName, rowsOf, spacingText, windowText } from "../receipt";
import { ask, isAnswering, settings, stop, turns } from "../session";
import { Answer } from "./answer";

/** Pixels of height in which question and answer do not both fit: then the answer comes to the top. */
const LOW = 200;

export function Conversation({ volume, title }: { volume: Volume; title: string }) {
  const latest = turns.value.at(-1);
  const asked = latest?.key;
  const state = latest?.state;
  useEffect(() => {
    const turn = asked === undefined ? null : document.getElementById(`turn-${asked}`);
    const isLow = (turn?.closest(".turns")?.clientHeight ?? 0) < LOW;
    (isLow ? turn?.querySelector(".card") : turn)?.scrollIntoView({ block: "start" });
  }, [asked, state]);
  return (
    <div class="turns">
      <ReceiptCard volume={volume} title={title} />
      <div role="log" aria-live="polite" aria-busy={isAnswering.value} aria-label="Answers">
        {turns.value.map((turn) => (
          <Answer key={turn.key} turn={turn} />
        ))}
      </div>
    </div>
  );
}

function ReceiptCard({ volume, title }: { volume: Volume; title: string }) {
  const { receipt } = volume;
  const { num_slices, height, width } = receipt.grid;
  return (
    <section class="card receipt" aria-label="How the scan was read">
      <h2 title={title}>{title}</h2>
      <dl>
        <div>
          <dt>Read as</dt>
          <dd>
            {receipt.modality === "unknown" ? "unknown modality" : receipt.modality}
            {receipt.is_synthetic && ", synthetic"}
          </dd>
        </div>
        <div>
          <dt>Voxel size</dt>
          <dd>{spacingText(receipt)}</dd>
        </div>
        <div>
          <dt>Model's window</dt>
          <dd>{windowText(receipt.window)}</dd>
        </div>
        <div>
          <dt>Model's grid</dt>
          <dd>
            {num_slices} slices of {height}×{width},{" "}
            {(receipt.grid.planes ?? [receipt.grid.plane]).map(plainName).join(", ")}
          </dd>
        </div>
      </dl>
      {receipt.warnings.map((warning) => (
        <p class="doubt" key={warning}>
          {warning}
        </p>
      ))}
      <details>
        <summary>All facts</summary>
        <table>
          <tbody>
            {rowsOf(receipt).map(([name, value]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td>{value}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </details>
    </section>
  );
}

export function Composer() {
  const field = useRef<HTMLTextAreaElement>(null);
  const [text, setText] = useState("");
  const [followsUp, setFollowsUp] = useState(false);
  const isBusy = isAnswering.value;
  useEffect(() => {
    if (field.current === null) return;
    field.current.style.height = "auto"; // as tall as what is written
    field.current.style.height = `${field.current.scrollHeight + 2}px`;
  }, [text]);
  const send = (question: string) => {
    if (isBusy || question.trim() === "") return;
    setText("");
    void ask(question.trim(), followsUp);
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send(text);
      }}
    >
      <fieldset class="suggestions" aria-label="Ready questions" disabled={isBusy || settings.value === null}>
        <button type="button" onClick={() => void ask("")}>
          <b>Describe the findings</b>
        </button>
        {turns.value.length === 0 &&
          (settings.value?.ready_questions ?? []).map((question) => (
            <button type="button" key={question} onClick={() => send(question)}>
              {question}
            </button>
          ))}
      </fieldset>
      <label class="unseen" for="question">
        Question about the scan
      </label>
      <div class="line">
        <textarea
          id="question"
          ref={field}
          rows={1}
          value={text}
          placeholder="Ask about this scan …"
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            send(text);
          }}
        />
        {isBusy ? (
          <button type="button" class="main stop" onClick={stop}>
            Stop
          </button>
        ) : (
          <button type="submit" class="main" disabled={text.trim() === ""}>
            Ask
          </button>
        )}
      </div>
      {turns.value.some(({ state }) => state === "done") && (
        <label class="follow">
          <input type="checkbox" checked={followsUp} onChange={(event) => setFollowsUp(event.currentTarget.checked)} />
          <span>
            Follow-up<span class="long">: the model reads earlier answers</span>
          </span>
        </label>
      )}
    </form>
  );
}
