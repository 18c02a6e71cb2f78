/** How does somebody with a token get in? The server's 401 opens this; the token is kept in memory only. */

import { useEffect, useRef } from "preact/hooks";
import { tokenQuestion } from "../server";

export function TokenDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const field = useRef<HTMLInputElement>(null);
  const question = tokenQuestion.value;
  const shown = useRef<typeof question>(null);
  const close = () => {
    if (dialog.current?.open) return; // it is open again: what was closed is the question before
    if (shown.current !== null && shown.current === tokenQuestion.peek()) shown.current.refuse();
  };
  useEffect(() => {
    shown.current = question;
    if (question !== null) {
      if (!dialog.current?.open) dialog.current?.showModal();
      field.current?.focus();
    } else dialog.current?.close();
  }, [question]);
  return (
    <dialog ref={dialog} aria-labelledby="token-title" onClose={close}>
      <form
        method="dialog"
        onSubmit={(event) => {
          event.preventDefault();
          const given = field.current?.value.trim() ?? "";
          if (field.current) field.current.value = "";
          if (given !== "") question?.answer(given);
        }}
      >
        <h2 id="token-title">This server asks for a token</h2>
        <p class={question?.wasWrong ? "problem" : "faint"}>
          {question?.wasWrong
            ? "That token was refused. Try again."
            : "Whoever runs the server has given it to you. It is forgotten when you close the page."}
        </p>
        <label>
          Token
          <input ref={field} type="password" autocomplete="off" required />
        </label>
        <p class="buttons">
          <button type="button" onClick={() => dialog.current?.close()}>
            Cancel
          </button>
          <button type="submit" class="main">
            Go on
          </button>
        </p>
      </form>
    </dialog>
  );
}
