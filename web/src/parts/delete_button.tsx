/** Is the scan to go, with the answers that nobody saved? Asks where there are some. */

import { useRef } from "preact/hooks";
import { closeScan, hasAnswers, turns } from "../session";

export function DeleteButton() {
  const dialog = useRef<HTMLDialogElement>(null);
  const count = turns.value.filter(({ state }) => state === "done").length;
  return (
    <>
      <button
        type="button"
        title="Delete this scan from the server and start anew"
        onClick={() => (hasAnswers.value ? dialog.current?.showModal() : void closeScan())}
      >
        Delete<span class="wide"> scan</span>
      </button>
      <dialog ref={dialog} aria-labelledby="delete-title">
        <form
          method="dialog"
          onSubmit={(event) => event.submitter?.getAttribute("value") === "delete" && void closeScan()}
        >
          <h2 id="delete-title">Delete the scan and its answers?</h2>
          <p>
            {count === 1 ? "One answer goes" : `${count} answers go`} with it, here and on the server, and cannot be
            brought back. Export them first if you want to keep them.
          </p>
          <p class="buttons">
            <button type="submit" value="keep">
              Keep
            </button>
            <button type="submit" value="delete" class="main">
              Delete
            </button>
          </p>
        </form>
      </dialog>
    </>
  );
}
