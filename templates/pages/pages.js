// What the pages can do beyond what they can do without this: follow a log, search it, and the keyboard.
"use strict";
document.documentElement.classList.add("js");

const article = document.getElementById("task");
const log = document.getElementById("log");
const follow = document.getElementById("log-follow");
const search = document.getElementById("log-search");
const status = document.getElementById("log-status");

function find(text) {
  const wanted = text.toLowerCase();
  for (const line of log.querySelectorAll("li")) {
    line.hidden = wanted !== "" && !line.textContent.toLowerCase().includes(wanted);
  }
}

// Texts are only ever put in as text: much of them was written by an agent.
function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function add(line) {
  log.querySelector(".empty")?.remove();
  let list = log.querySelector("details:last-of-type ol");
  if (line.kind === "stage" || !list) {
    const group = element("details", "group");
    group.open = true;
    group.append(element("summary", "", line.kind === "stage" ? line.text : "log"));
    list = element("ol");
    group.append(list);
    log.append(group);
    if (line.kind === "stage") {
      status.textContent = line.text;
      document.title = line.text + document.title.replace(/^[^:]*/, "");
      return;
    }
  }
  const n = log.querySelectorAll("li").length + 1;
  const item = element("li", line.kind);
  item.id = "L" + n;
  const number = element("a", "n", String(n));
  number.href = "#L" + n;
  item.append(number, element("span", "at", line.seconds.toFixed(1) + " s"), element("span", "text", line.text));
  list.append(item);
  if (search && search.value) find(search.value);
  if (follow.checked) item.scrollIntoView({ block: "nearest" });
}

if (article && article.dataset.live) {
  const id = article.dataset.id;
  const source = new EventSource(log
    ? `/tasks/${id}/log.sse?from=${article.dataset.live}`
    : `/tasks/${id}/log.sse?from=${article.dataset.live}`);
  source.addEventListener("line", (event) => {
    if (log) add(JSON.parse(event.data));
  });
  // The server knows best how a task looks that has ended.
  source.addEventListener("end", () => {
    source.close();
    if (!document.querySelector("textarea")?.value) location.reload();
  });
}
if (search) search.addEventListener("input", () => find(search.value));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const links = [...document.querySelectorAll(".task .title")];
  const at = links.indexOf(document.activeElement);
  if (event.key === "j" && links.length) links[Math.min(at + 1, links.length - 1)].focus();
  if (event.key === "k" && links.length) links[Math.max(at - 1, 0)].focus();
  if (event.key === "/" && search) { event.preventDefault(); search.focus(); }
});

const asking = document.querySelector(".tasks");
if (asking && !article) {
  // A list that somebody looks at stays true; one that somebody types into stays as it is.
  setInterval(() => {
    const typing = document.activeElement?.closest("input, textarea, select") || document.querySelector("textarea")?.value;
    if (!document.hidden && !typing) location.reload();
  }, 15000);
}
