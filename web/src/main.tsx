import { render } from "preact";
import { App } from "./app";
import { leave, start } from "./session";

const page = document.getElementById("page");
if (page === null) throw new Error("index.html has no #page");
render(<App />, page);
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload(); // the scan was deleted when the page was left
});
void start();
