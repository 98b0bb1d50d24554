// Start the deck when formulas, fonts and pictures have their size, so that every slide can be made to fit.
const WIDTH = 1280, HEIGHT = 700;

// How small a slide may become before it is cut; with a picture a little smaller, rather than losing its code.
const smallest = (parts) => (parts.some((part) => part.querySelector("img")) ? 80 : 85);

// The heights that a slide's pictures may have. What is written in a tall one must be read, so it keeps more.
function pictureHeights(parts) {
  const tallest = Math.max(0, ...parts.flatMap((part) => [...part.querySelectorAll("img")]).map((img) => img.naturalHeight));
  return [Math.min(400, Math.max(320, 0.5 * tallest)), Math.min(560, Math.max(480, 0.75 * tallest))];
}

// Smaller pictures first, since the text must be read, then the text in steps of five percent.
function shrink(box, percent) {
  const fits = () => box.getBoundingClientRect().height <= HEIGHT;
  const show = (height, size) => {
    box.style.zoom = size / 100;
    box.style.setProperty("--picture", `${(height * 100) / size}px`);
  };
  const [least, most] = pictureHeights([box]);
  let height = most;
  for (show(height, 100); height > least && !fits(); show(height, 100)) height = Math.max(least, height - 20);
  for (let size = 95; size >= percent && !fits(); size -= 5) show(height, size);
  return fits();
}

// Where a slide may be cut: not between code and its printed output, nor between a picture and its caption. Best so
// that two slides are enough, then not between a picture and its code, then near the middle.
function bestCut(box) {
  const parts = [...box.children];
  const { top, height } = box.getBoundingClientRect();
  const fits = (some) => {
    const heights = some.map((part) =>
      part.querySelector("img") ? pictureHeights([part])[0] : (part.getBoundingClientRect().height * smallest(some)) / 100);
    return heights.reduce((sum, each) => sum + each, 0) <= HEIGHT;
  };
  const cost = (part) => [
    fits(parts.slice(0, parts.indexOf(part))) && fits(parts.slice(parts.indexOf(part))) ? 0 : 1,
    part.querySelector("img") ? 1 : 0,
    Math.abs(part.getBoundingClientRect().top - top - height / 2),
  ];
  const better = (a, b) => (a[0] ? b[0] - a[0] || b[2] - a[2] : b[0] - a[0] || b[1] - a[1] || b[2] - a[2]) > 0;
  return parts
    .slice(1)
    .filter((part) =>
      part.matches(".jp-Cell-outputWrapper") ? part.querySelector("img") : !part.previousElementSibling.querySelector("img"))
    .reduce((best, part) => (best && !better(cost(part), cost(best)) ? best : part), undefined);
}

// Long lines of code become smaller alone; those that would become too small are wrapped. Long lines of output
// are texts, which can be wrapped as they are.
function narrow(pre) {
  const size = Math.min(1, pre.clientWidth / pre.scrollWidth);
  pre.style.zoom = size < 0.7 ? (pre.closest(".jp-OutputArea") ? 1 : 0.7) : size;
  if (size < 0.7) pre.style.whiteSpace = "pre-wrap";
}

// A formula that is too wide becomes smaller.
function narrowFormula(formula) {
  if (formula.scrollWidth > formula.clientWidth) formula.style.fontSize = `${formula.clientWidth / formula.scrollWidth}em`;
}

// A slide that would become hard to read is cut in two; one cell that is too tall for a slide scrolls.
function fit(slide) {
  const first = slide.firstElementChild;
  if (first?.matches(".fragment")) first.replaceWith(...first.children); // Without it the slide would begin empty.
  const box = document.createElement("div");
  box.append(...slide.children);
  slide.append(box);
  if (shrink(box, smallest([box]))) return;
  box.removeAttribute("style");
  const cut = bestCut(box);
  if (cut) {
    const rest = slide.cloneNode(false);
    rest.append(...[...box.children].slice([...box.children].indexOf(cut)));
    slide.after(rest);
    slide.replaceChildren(...box.children);
    fit(slide);
    fit(rest);
  } else if (!shrink(box, 60)) slide.classList.add("tall");
}

const slides = document.querySelector(".slides");
slides.querySelectorAll(".jp-CodeCell").forEach((cell) => cell.replaceWith(...cell.children));
typesetMath(slides);
slides.style.width = `${WIDTH}px`;
document.body.classList.add("measuring");
slides.getBoundingClientRect(); // Lays the page out, which asks for the fonts that it needs.

window.addEventListener("load", async () => {
  await document.fonts.ready;
  slides.querySelectorAll("pre").forEach(narrow);
  slides.querySelectorAll(".katex-display").forEach(narrowFormula);
  for (const section of slides.children) {
    // Notes stand at the end of a section in the notebook; the speaker needs them on each of its slides.
    const notes = [...section.querySelectorAll("aside.notes")];
    notes.forEach((note) => note.remove());
    [...section.children].forEach(fit);
    for (const slide of section.children) slide.append(...notes.map((note) => note.cloneNode(true)));
  }
  document.body.classList.remove("measuring");
  Reveal.initialize({
    width: WIDTH, height: 720, margin: 0.04, center: false, hash: true, navigationMode: "linear", slideNumber: "c/t",
    transition: "none", pdfMaxPagesPerSlide: 1, pdfSeparateFragments: false, plugins: [RevealNotes],
  });
});
