// Start the deck when formulas, fonts and pictures have their size, so that every slide can be made to fit.
const WIDTH = 1280, HEIGHT = 700;

// Smaller pictures first, since the text must be read, then everything in small steps.
function shrink(box, smallest) {
  const fits = () => box.getBoundingClientRect().height <= HEIGHT;
  for (let height = 460; height >= 340 && !fits(); height -= 20) box.style.setProperty("--picture", `${height}px`);
  for (let size = 1; size >= smallest && !fits(); size -= 0.05) box.style.zoom = size;
  return fits();
}

// Where a slide may be cut: not between code and its printed output, nor between a picture and its caption.
function nearestCut(box) {
  const { top, height } = box.getBoundingClientRect();
  const middle = top + height / 2;
  const off = (part) => Math.abs(part.getBoundingClientRect().top - middle);
  return [...box.children]
    .slice(1)
    .filter((part) =>
      part.matches(".jp-Cell-outputWrapper") ? part.querySelector("img") : !part.previousElementSibling.querySelector("img"))
    .sort((a, b) => off(a) - off(b))[0];
}

// Long lines of code become smaller alone; those that would become too small are wrapped.
function narrow(pre) {
  const size = Math.min(1, pre.clientWidth / pre.scrollWidth);
  pre.style.zoom = Math.max(0.7, size);
  if (size < 0.7) pre.style.whiteSpace = "pre-wrap";
}

// A slide that would become hard to read is cut in two; one cell that is too tall for a slide scrolls.
function fit(slide) {
  const box = document.createElement("div");
  box.append(...slide.children);
  slide.append(box);
  if (shrink(box, 0.8)) return;
  box.removeAttribute("style");
  const cut = nearestCut(box);
  if (cut) {
    const rest = slide.cloneNode(false);
    rest.append(...[...box.children].slice([...box.children].indexOf(cut)));
    slide.after(rest);
    slide.replaceChildren(...box.children);
    fit(slide);
    fit(rest);
  } else if (!shrink(box, 0.6)) slide.classList.add("tall");
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
