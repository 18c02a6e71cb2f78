/** What does the page say that belongs to no answer? One line that stays until it is closed or replaced. */

import { signal } from "@preact/signals";

const shown = signal<{ text: string; kind: "bad" | "good" } | null>(null);

export function notify(text: string, kind: "bad" | "good" = "bad"): void {
  shown.value = { text, kind };
}

export function Toast() {
  const now = shown.value;
  return (
    <div class="toast-place" role="alert">
      {now !== null && (
        <p class={`toast ${now.kind}`}>
          <span>{now.text}</span>
          <button
            type="button"
            class="quiet"
            aria-label="Close this message"
            onClick={() => {
              shown.value = null;
            }}
          >
            ✕
          </button>
        </p>
      )}
    </div>
  );
}
