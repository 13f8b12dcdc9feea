"use strict";
const film = JSON.parse(document.getElementById("film-data").textContent);
const byId = (id) => document.getElementById(id);
const uri = (jpeg) => "data:image/jpeg;base64," + jpeg;
for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;

const length = Math.max(...film.scenarios.map((one) => one.months.length));
const state = { position: 0, member: 0, timer: 0 };

function monthOf(position) {
  const months = new Set(film.scenarios.map((one) => one.months[position]).filter(Boolean));
  return months.size === 1 ? [...months][0] : `step ${position + 1} of ${length}`;
}

function showFrame(figure, scenario, position, member) {
  const image = figure.querySelector("img");
  const has = position < scenario.months.length;
  image.style.visibility = has ? "visible" : "hidden";
  if (!has) return;
  image.src = uri(scenario.frames[member][position]);
  image.alt = `Synthetic image, ${scenario.title}, ${scenario.months[position]}, member ${member}`;
  figure.querySelector(".month").textContent = scenario.months[position];
  figure.querySelector(".climate").textContent = scenario.climate[position];
  figure.querySelector(".read").textContent = scenario.read[member][position];
  const support = figure.querySelector(".support");
  support.textContent = scenario.support[position].words;
  support.dataset.level = scenario.support[position].level;
}

function show() {
  document.querySelectorAll(".frame[data-scenario]").forEach((figure) => {
    showFrame(figure, film.scenarios[Number(figure.dataset.scenario)], state.position, state.member);
  });
  const range = byId("film-range");
  range.value = String(state.position);
  range.setAttribute("aria-valuetext", monthOf(state.position));
  byId("film-month").textContent = monthOf(state.position);
  for (const cursor of document.querySelectorAll(".spark .cursor")) {
    const x = length > 1 ? (state.position / (length - 1)) * 1000 : 500;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
  }
}

function move(step) {
  state.position = (state.position + step + length) % length;
  show();
}

function pause() {
  clearInterval(state.timer);
  state.timer = 0;
  byId("film-play").textContent = "▶ Play";
}

function play() {
  clearInterval(state.timer);
  state.timer = setInterval(() => move(1), Number(byId("film-speed").value));
  byId("film-play").textContent = "❚❚ Pause";
}

byId("film-play").addEventListener("click", () => (state.timer ? pause() : play()));
byId("film-back").addEventListener("click", () => { pause(); move(-1); });
byId("film-forth").addEventListener("click", () => { pause(); move(1); });
byId("film-speed").addEventListener("change", () => { if (state.timer) play(); });
byId("film-range").addEventListener("input", (event) => {
  pause();
  state.position = Number(event.target.value);
  show();
});
byId("film-member").addEventListener("change", (event) => {
  state.member = Number(event.target.value);
  show();
  showPair();
});

function showSide(side) {
  const choice = byId(`pair-${side}`).value;
  const position = Number(byId("pair-range").value);
  const image = byId(`pair-${side}-image`);
  const label = byId(`pair-${side}-label`);
  const badge = byId(`pair-${side}-badge`);
  const start = byId("start-image").nextElementSibling;
  badge.textContent = choice === "start" ? start.textContent : "synthetic";
  badge.classList.toggle("given", choice === "start" && start.classList.contains("given"));
  if (choice === "start") {
    image.src = byId("start-image").src;
    image.alt = byId("start-image").alt;
    label.textContent = byId("pair-left").dataset.start;
    return;
  }
  const scenario = film.scenarios[Number(choice)];
  const at = Math.min(position, scenario.months.length - 1);
  image.src = uri(scenario.frames[state.member][at]);
  image.alt = `Synthetic image, ${scenario.title}, ${scenario.months[at]}`;
  label.textContent = `${scenario.title} · ${scenario.months[at]}`;
}

function showPair() {
  const position = Number(byId("pair-range").value);
  byId("pair-range").setAttribute("aria-valuetext", monthOf(position));
  byId("pair-month").textContent = monthOf(position);
  showSide("left");
  showSide("right");
}

function showDivider() {
  const share = Number(byId("pair-divider").value);
  byId("pair-right-image").style.clipPath = `inset(0 0 0 ${share}%)`;
  byId("pair-line").style.left = `${share}%`;
  byId("pair-divider").setAttribute("aria-valuetext", `${share} % left image`);
}

for (const id of ["pair-left", "pair-right"]) byId(id).addEventListener("change", showPair);
byId("pair-range").addEventListener("input", showPair);
byId("pair-divider").addEventListener("input", showDivider);
show();
showPair();
showDivider();
