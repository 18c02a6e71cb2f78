import { render } from "preact";
import { App } from "./app";
import { hasAnswers, leave, start } from "./session";

const page = document.getElementById("page");
if (page === null) throw new Error("index.html has no #page");
render(<App />, page);
window.addEventListener("pagehide", leave);
window.addEventListener("beforeunload", (event) => {
  if (hasAnswers.value) event.preventDefault(); // the browser asks before answers are lost
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload(); // the scan was deleted when the page was left
});
void start();
