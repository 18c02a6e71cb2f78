/** How is the page laid out? Notices on top, always; then the welcome, or viewer and conversation side by side. */

import { useEffect, useRef } from "preact/hooks";
import { Composer, Conversation } from "./parts/conversation";
import { DeleteButton } from "./parts/delete_button";
import { ExportMenu } from "./parts/export_menu";
import { HelpDialog } from "./parts/help_dialog";
import { Notices } from "./parts/notices";
import { Toast } from "./parts/toast";
import { TokenDialog } from "./parts/token_dialog";
import { Sending, Welcome } from "./parts/welcome";
import { scanLine } from "./receipt";
import { news, settings, stage, stop } from "./session";
import { type Layout, layout } from "./viewer/view";
import { Viewer } from "./viewer/viewer";

const LAYOUT_KEYS: Record<string, Layout> = { 1: "all", 2: "axial", 3: "coronal", 4: "sagittal", 5: "render" };

export function App() {
  const help = useRef<HTMLDialogElement>(null);
  const top = useRef<HTMLElement>(null);
  useEffect(() => {
    const observer = new ResizeObserver(() => {
      document.documentElement.style.setProperty("--top", `${top.current?.offsetHeight ?? 0}px`);
    });
    if (top.current) observer.observe(top.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const isTyping = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
      if (event.key === "Escape") stop();
      if (isTyping || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (event.key === "?") help.current?.showModal();
      else if (LAYOUT_KEYS[event.key] !== undefined) layout.value = LAYOUT_KEYS[event.key] as Layout;
      else if (event.key === "/") document.getElementById("question")?.focus();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  const now = stage.value;
  return (
    <>
      <header class="top" ref={top}>
        <div class="bar">
          <span class="brand">
            <img src="icon.svg" alt="" width="24" height="24" /> slicesight
            {settings.value !== null && <span class="chip">{settings.value.model}</span>}
          </span>
          {now.name === "open" && <h1 class="scan">{scanLine(now.volume.receipt)}</h1>}
          <span class="actions">
            {now.name === "open" && (
              <>
                <ExportMenu volume={now.volume} isFromArchive={now.isFromArchive} />
                <DeleteButton />
              </>
            )}
            <button
              type="button"
              class="round"
              aria-label="Help"
              title="Help (?)"
              onClick={() => help.current?.showModal()}
            >
              ?
            </button>
          </span>
        </div>
        <Notices />
      </header>
      {now.name === "welcome" && <Welcome problem={now.problem} choice={now.choice} />}
      {now.name === "sending" && <Sending stage={now} />}
      {now.name === "open" && (
        <main class="workplace">
          <Viewer volume={now.volume} title={now.title} />
          <section class="talk" aria-label="Questions and answers">
            <Conversation volume={now.volume} title={now.title} />
            <Composer />
          </section>
        </main>
      )}
      <div class="unseen" role="status">
        {news.value}
      </div>
      <Toast />
      <HelpDialog dialog={help} />
      <TokenDialog />
    </>
  );
}
