/** How does a scan get in? Dropped, chosen, or named in an archive; with the reader's options for files that need them. */

import { useRef, useState } from "preact/hooks";
import { chosenScan, droppedFiles } from "../files";
import { inWords, sizeText } from "../problems";
import { plainName } from "../receipt";
import { type Choice, openScan, readingOptions, type Stage, settings, settingsProblem, start } from "../session";

export function Welcome({ problem, choice }: { problem: string; choice: Choice | undefined }) {
  const [isOver, setOver] = useState(false);
  const [packing, setPacking] = useState("");
  const [fault, setFault] = useState("");
  const server = settings.value;

  const open = async (files: File[]) => {
    if (files.length === 0) return;
    setFault("");
    try {
      if (files.length > 1) setPacking(`Packing ${files.length} files …`);
      const scan = await chosenScan(files);
      if (server !== null && scan.file.size > server.max_upload_bytes) {
        setFault(
          `${scan.name} is ${sizeText(scan.file.size)}; this server takes up to ${sizeText(server.max_upload_bytes)}.`,
        );
      } else {
        await openScan(scan);
      }
    } catch (error) {
      setFault(inWords(error));
    } finally {
      setPacking("");
    }
  };
  const choose = (event: Event) => {
    const field = event.currentTarget as HTMLInputElement;
    void open([...(field.files ?? [])]);
  };
  const shown = settingsProblem.value || fault || problem;

  return (
    <main class="welcome">
      <h1>Ask a scan, see which slices weigh in each answer</h1>
      <section
        class={`drop${isOver ? " over" : ""}`}
        aria-label="Choose a scan"
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          if (event.dataTransfer) void droppedFiles(event.dataTransfer).then(open);
        }}
      >
        <Stack />
        <p class="big">{packing || "Drop a scan here"}</p>
        <p class="buttons">
          <label class="button main">
            Choose a file
            <input class="unseen" type="file" onChange={choose} />
          </label>
          <label class="button">
            Choose a DICOM folder
            <input
              class="unseen"
              type="file"
              ref={(field) => field?.setAttribute("webkitdirectory", "")}
              onChange={choose}
            />
          </label>
        </p>
        <p class="faint">
          NIfTI, NRRD, MetaImage, DICOM (folder, zip or file), .npy
          {server !== null && ` · up to ${sizeText(server.max_upload_bytes)}`}
        </p>
      </section>
      <div role="alert">
        {shown !== "" && (
          <p class="problem">
            {shown}{" "}
            {settingsProblem.value !== "" && (
              <button type="button" onClick={() => void start()}>
                Try again
              </button>
            )}
          </p>
        )}
      </div>
      {choice !== undefined && (
        <section class="card" aria-label="Series">
          <h2>This is more than one series. Which one?</h2>
          <div class="series">
            {choice.series.map(({ uid, facts }) => (
              <button type="button" key={uid} title={uid} onClick={() => void openScan(choice.scan, uid)}>
                {facts}
              </button>
            ))}
          </div>
        </section>
      )}
      <ReadingOptions windows={server?.windows ?? []} />
      {server !== null && server.archives.length > 0 && <Archive archives={server.archives} />}
      <p class="faint privacy">
        The scan goes to this server and nowhere else. It is deleted there when you press “Delete scan” or close this
        page.
      </p>
    </main>
  );
}

function ReadingOptions({ windows }: { windows: string[] }) {
  const given = readingOptions.value;
  const field = (name: string) => ({
    name,
    value: given[name] ?? "",
    onInput: (event: Event) => {
      const { value } = event.currentTarget as HTMLInputElement | HTMLSelectElement;
      readingOptions.value = { ...readingOptions.value, [name]: value };
    },
  });
  return (
    <details class="options">
      <summary>Reading options</summary>
      <p class="faint">Only for files that need them; left alone, everything is read from the file itself.</p>
      <form onSubmit={(event) => event.preventDefault()}>
        <label>
          Grey window the model sees
          <select {...field("window")}>
            <option value="">as the scan asks for</option>
            {windows
              .filter((word) => word !== "auto")
              .map((word) => (
                <option key={word} value={word}>
                  {plainName(word)}
                </option>
              ))}
          </select>
        </label>
        <label>
          Slices stacked
          <select {...field("plane")}>
            <option value="">as acquired</option>
            <option>axial</option>
            <option>coronal</option>
            <option>sagittal</option>
          </select>
        </label>
        <label>
          Voxel size Z,Y,X in mm
          <input {...field("spacing_mm")} placeholder="2.5,0.78,0.78" inputMode="decimal" />
        </label>
        <label>
          Grey values are
          <select {...field("unit")}>
            <option value="">as the file says</option>
            <option value="HU">Hounsfield units (CT)</option>
            <option value="arbitrary">arbitrary (MR)</option>
          </select>
        </label>
        <label>
          Time point of a 4D file
          <input {...field("time_point")} type="number" min="0" />
        </label>
      </form>
    </details>
  );
}

function Archive({ archives }: { archives: string[] }) {
  const field = useRef<HTMLInputElement>(null);
  return (
    <form
      class="archive"
      onSubmit={(event) => {
        event.preventDefault();
        const source = field.current?.value.trim() ?? "";
        if (source !== "") void openScan({ source });
      }}
    >
      <label for="archive-series">Or open a series from the archive</label>
      <div class="row">
        <input
          id="archive-series"
          ref={field}
          list="archives"
          placeholder={`${archives[0]}/studies/…/series/…`}
          autocomplete="off"
          spellcheck={false}
          required
        />
        <datalist id="archives">
          {archives.map((archive) => (
            <option key={archive} value={`${archive}/studies/`} />
          ))}
        </datalist>
        <button type="submit">Open</button>
      </div>
    </form>
  );
}

export function Sending({ stage }: { stage: Extract<Stage, { name: "sending" }> }) {
  const isSent = stage.total > 0 && stage.sent >= stage.total;
  const percent = stage.total > 0 ? Math.round((100 * stage.sent) / stage.total) : 0;
  const fromArchive = stage.total === 0;
  return (
    <main class="welcome">
      <section class="drop" aria-label="Opening the scan">
        <Stack />
        <h1 class="big">{stage.title}</h1>
        {isSent || fromArchive ? (
          <progress aria-label="Reading the scan" />
        ) : (
          <progress max={100} value={percent} aria-label="Sending the scan" />
        )}
        <p role="status">
          {fromArchive
            ? "Fetching the series from the archive and reading it …"
            : isSent
              ? "Reading the scan and showing it to the model …"
              : `Sending ${sizeText(stage.sent)} of ${sizeText(stage.total)} · ${percent} %`}
        </p>
        <p class="buttons">
          <button type="button" onClick={stage.stop}>
            Stop
          </button>
        </p>
      </section>
    </main>
  );
}

function Stack() {
  return (
    <svg class="stack" viewBox="0 0 64 56" width="64" height="56" aria-hidden="true">
      <path d="M32 30 60 42 32 54 4 42z" />
      <path d="M32 20 60 32 32 44 4 32z" class="peak" />
      <path d="M32 10 60 22 32 34 4 22z" />
      <path d="M32 0 60 12 32 24 4 12z" />
    </svg>
  );
}
