"use strict";
// A click on a tile says right, wrong, another class, nothing, in turn. What was said is offered as
// a file; nothing leaves the page.
const ORDER = ["", "right", "wrong", "other"];
const WORDS = {right: "right", wrong: "wrong", other: "another class"};
const said = new Map();
const bar = document.getElementById("corrections");
const names = new Set([...document.querySelectorAll("#class-names option")].map((o) => o.value));
const allNamesListed = document.getElementById("class-names").dataset.complete === "true";

function tilesOf(index) {
  return document.querySelectorAll(`.tile[data-index="${index}"]`);
}

function say(tile, verdict, label) {
  const index = tile.dataset.index;
  if (verdict) {
    said.set(index, {key: tile.dataset.key, judged: tile.dataset.label, verdict, label});
  } else {
    said.delete(index);
  }
  for (const each of tilesOf(index)) show(each, verdict, label, each === tile);
  tell();
}

function show(tile, verdict, label, focus) {
  tile.dataset.verdict = verdict;
  tile.querySelector("button").setAttribute("aria-pressed", verdict ? "true" : "false");
  tile.querySelector(".verdict").textContent = verdict ? WORDS[verdict] : "";
  let field = tile.querySelector("input");
  if (verdict !== "other") {
    if (field) field.remove();
    return;
  }
  if (!field) {
    field = document.createElement("input");
    field.setAttribute("list", "class-names");
    field.setAttribute("aria-label", "its class");
    field.placeholder = "its class";
    field.addEventListener("input", () => say(tile, "other", field.value));
    tile.append(field);
    if (focus) field.focus();
  }
  if (field.value !== label) field.value = label;
  field.classList.toggle("unknown", !known(label));
}

function known(label) {
  return label !== "" && (names.has(label) || !allNamesListed);
}

function finished() {
  return [...said].filter(([, one]) => one.verdict !== "other" || known(one.label));
}

function tell() {
  const count = finished().length;
  const open = said.size - count;
  bar.hidden = said.size === 0;
  bar.querySelector("output").textContent =
    `${count} correction${count === 1 ? "" : "s"}` + (open ? `, ${open} without a known class` : "");
  bar.querySelector("button").disabled = count === 0;
}

function quoted(text) {
  return `"${text.replaceAll('"', '""')}"`;
}

function csv() {
  const lines = finished()
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([index, one]) => {
      const label = one.verdict === "other" ? one.label : one.judged;
      return [index, quoted(one.key), one.verdict, quoted(label)].join(",");
    });
  return ["index,key,verdict,label", ...lines, ""].join("\r\n");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest(".tile > button");
  if (!button) return;
  const tile = button.parentElement;
  const next = ORDER[(ORDER.indexOf(tile.dataset.verdict || "") + 1) % ORDER.length];
  say(tile, next, "");
});

bar.querySelector("button").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = "corrections.csv";
  link.click();
});
