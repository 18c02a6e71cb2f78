// Draws a SliceViewer from its traits; writes back `index` and `answer_number`. Texts are set as text, never as HTML.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320;
const BARS = 64;

function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

function render({ model, el }) {
  const [count, height, width] = model.get("shape");
  const view = model.get("pixels");
  const pixels = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const canvas = element("canvas", { width, height, className: "slice" });
  const edges = ["left", "right", "top", "bottom"].map((side) => element("span", { className: `side ${side}` }));
  const frame = element("div", { className: "frame" }, [canvas, ...edges]);
  const name = element("output", { className: "name" });
  const slider = element("input", { type: "range", min: 0, max: count - 1, step: 1, ariaLabel: "slice" });
  const chooser = element("select", { ariaLabel: "question" });
  const question = element("div", { className: "question", dir: "auto" });
  const text = element("div", { className: "text", dir: "auto" });
  const sure = element("div", { className: "faint" });
  const doubts = element("div");
  const bars = shape("svg", { class: "bars", viewBox: `0 0 ${count * 10} ${BARS}`, preserveAspectRatio: "none" });
  const evidence = element("div", { className: "faint" });
  const notices = element("div", { className: "faint small" }, [model.get("notices").join(" ")]);
  const answers = model.get("answers");
  answers.forEach((one, number) => chooser.append(element("option", { value: number, textContent: one.question })));

  function show(number) {
    model.set("index", Math.min(Math.max(number, 0), count - 1));
    model.save_changes();
  }

  function drawSlice() {
    const number = model.get("index");
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const start = number * height * width;
    for (let place = 0; place < height * width; place += 1) {
      const grey = pixels[start + place];
      image.data.set([grey, grey, grey, 255], place * 4);
    }
    context.putImageData(image, 0, 0);
    canvas.style.width = `${WIDTH}px`;
    canvas.style.height = `${Math.round(WIDTH * model.get("proportions")[number])}px`;
    const letters = model.get("sides")[number] || "????";
    edges.forEach((edge, place) => { edge.textContent = letters[place]; });
    slider.value = number;
    const answer = answers[model.get("answer_number")];
    const score = answer?.scores.length ? ` · ${answer.share_name} ${answer.scores[number].toFixed(3)}` : "";
    name.textContent = `${model.get("names")[number]}${score}`;
    for (const bar of bars.querySelectorAll(".bar")) bar.classList.toggle("shown", Number(bar.dataset.index) === number);
  }

  function drawAnswer() {
    const answer = answers[model.get("answer_number")];
    bars.replaceChildren();
    if (!answer) { bars.style.display = "none"; return; }
    chooser.value = model.get("answer_number");
    question.textContent = answer.question;
    text.textContent = answer.text;
    sure.textContent = answer.confidence;
    doubts.replaceChildren(...answer.doubts.map((one) => element("div", { className: "doubt", textContent: one })));
    evidence.textContent = answer.evidence;
    bars.style.display = answer.scores.length ? "" : "none";
    answer.scores.forEach((score, number) => {
      const high = Math.max((BARS * score) / answer.ceiling, 0);
      const group = shape("g", { class: "bar", "data-index": number });
      group.append(
        shape("rect", { class: "hit", x: number * 10, y: 0, width: 10, height: BARS }),
        shape("rect", { class: "score", x: number * 10 + 1, y: BARS - high, width: 8, height: high }),
      );
      group.addEventListener("click", () => show(number));
      bars.append(group);
    });
    if (answer.scores.length) {
      const even = BARS * (1 - 1 / answer.scores.length / answer.ceiling);
      bars.append(shape("line", { x1: 0, x2: count * 10, y1: even, y2: even }));
    }
  }

  slider.addEventListener("input", () => show(Number(slider.value)));
  chooser.addEventListener("change", () => { model.set("answer_number", Number(chooser.value)); model.save_changes(); });
  frame.addEventListener("wheel", (event) => { event.preventDefault(); show(model.get("index") + Math.sign(event.deltaY)); });
  const redraw = () => { drawAnswer(); drawSlice(); };
  model.on("change:index", drawSlice);
  model.on("change:answer_number", redraw);

  el.classList.add("slicesight-viewer");
  const said = element("div", { className: "said" }, [
    ...(answers.length > 1 ? [chooser] : []), question, text, sure, doubts, bars, evidence, notices,
  ]);
  el.append(element("div", { className: "scan" }, [frame, slider, name]), said);
  redraw();
  return () => { model.off("change:index", drawSlice); model.off("change:answer_number", redraw); };
}

export default { render };
