// Puts each new report into a frame, at the place where the last one was read and with the same parts unfolded.
"use strict";

const EVERY_MS = 3000;
let shown = "";

// What can be folded, by what it is called: numbers in it may grow.
function folded(page) {
  const found = new Map();
  for (const one of page.querySelectorAll("details")) {
    const section = one.closest("section")?.id;
    const name = `${section} ${one.querySelector("summary").textContent.replace(/\d+/g, "")}`;
    const number = [...found.keys()].filter((key) => key.startsWith(`${name}/`)).length;
    found.set(`${name}/${number}`, one);
  }
  return found;
}

// The last section whose beginning is above the window, and how far: what is added before it does not move it.
function place(page) {
  const above = [...page.querySelectorAll("section[id]")].filter((one) => one.getBoundingClientRect().top <= 0).at(-1);
  return above ? [above.id, above.getBoundingClientRect().top] : ["", -page.scrollingElement.scrollTop];
}

function keepPlace(before, after) {
  const old = folded(before);
  for (const [name, one] of folded(after)) if (old.has(name)) one.open = old.get(name).open;
  const [section, top] = place(before);
  const from = after.getElementById(section);
  after.scrollingElement.scrollTop = (from ? from.getBoundingClientRect().top : 0) - top;
}

function show(frame) {
  const old = document.querySelector("iframe:not(.coming)");
  if (old && old.contentDocument.scrollingElement) keepPlace(old.contentDocument, frame.contentDocument);
  frame.classList.remove("coming");
  if (old) old.remove();
  document.title = frame.contentDocument.title || document.title;
}

function renew() {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.className = "coming";
    frame.setAttribute("sandbox", "allow-same-origin allow-downloads"); // no script of the report's
    frame.addEventListener("load", () => { show(frame); done(); }, { once: true });
    frame.src = "report.html";
    document.body.append(frame);
  });
}

async function look() {
  const said = document.getElementById("said");
  try {
    const mark = await (await fetch("mark")).text();
    if (mark !== shown) {
      shown = mark;
      await renew();
    }
    said.hidden = true;
  } catch {
    said.textContent = "No answer: `specs watch` has ended.";
    said.hidden = false;
  }
  setTimeout(look, EVERY_MS);
}

look();
