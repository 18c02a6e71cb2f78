/** How do answers leave the page? As a report page, JSON or a DICOM Structured Report; the last also back to the archive. */

import { useRef } from "preact/hooks";
import type { Volume } from "../contract";
import { inWords } from "../problems";
import { type ReportFormat, readReport, storeReport } from "../server";
import { answerIds, news, turns } from "../session";
import { notify } from "./toast";

const FORMATS: { format: ReportFormat; name: string; hint: string; ending: string }[] = [
  { format: "html", name: "Report page", hint: "HTML, opens anywhere", ending: "html" },
  { format: "json", name: "Data", hint: "JSON, for programs", ending: "json" },
  { format: "sr", name: "DICOM SR", hint: "structured report", ending: "dcm" },
];

export function ExportMenu({ volume, isFromArchive }: { volume: Volume; isFromArchive: boolean }) {
  const menu = useRef<HTMLDetailsElement>(null);
  const isDicom = String(volume.receipt.source.format).includes("DICOM");
  const isEmpty = answerIds.value.length === 0;
  const numLost = turns.value.filter(({ state }) => state === "done").length - answerIds.value.length;
  const close = () => {
    if (menu.current) menu.current.open = false;
  };
  const attempt = async (work: () => Promise<string>) => {
    close();
    try {
      news.value = await work();
    } catch (error) {
      notify(inWords(error));
    }
  };
  return (
    <details
      class="menu"
      ref={menu}
      onFocusOut={(event) => {
        if (event.relatedTarget instanceof Node && !menu.current?.contains(event.relatedTarget)) close();
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape") close();
      }}
    >
      <summary>Export</summary>
      <div class="choices">
        {isEmpty && <p class="faint">Ask something first; a report holds the answers.</p>}
        {!isEmpty && numLost > 0 && (
          <p class="faint">Without the {numLost} from before the scan was opened again; copy their text.</p>
        )}
        {FORMATS.map(({ format, name, hint, ending }) => (
          <button
            type="button"
            key={format}
            disabled={isEmpty || (format === "sr" && !isDicom)}
            onClick={() =>
              attempt(async () => {
                save(await readReport(volume.id, format, answerIds.value), `slicesight-report.${ending}`);
                return `${name} saved.`;
              })
            }
          >
            {name} <span class="faint">{format === "sr" && !isDicom ? "needs a DICOM scan" : hint}</span>
          </button>
        ))}
        {isFromArchive && (
          <button
            type="button"
            disabled={isEmpty}
            onClick={() =>
              attempt(async () => {
                await storeReport(volume.id, answerIds.value);
                notify("The DICOM SR is stored in the archive.", "good");
                return "Stored in the archive.";
              })
            }
          >
            Store in the archive <span class="faint">DICOM SR, beside the scan</span>
          </button>
        )}
      </div>
    </details>
  );
}

function save(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
