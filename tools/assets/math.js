// Typeset the formulas of a page. Speaker notes are copied into a window without our styles: MathML there.
function typesetMath(root) {
  const delimiters = [
    { left: "$$", right: "$$", display: true },
    { left: "\\[", right: "\\]", display: true },
    { left: "\\(", right: "\\)", display: false },
    { left: "\\begin{align}", right: "\\end{align}", display: true },
    { left: "$", right: "$", display: false },
  ];
  for (const notes of root.querySelectorAll("aside.notes"))
    renderMathInElement(notes, { delimiters, throwOnError: false, output: "mathml" });
  renderMathInElement(root, { delimiters, throwOnError: false, ignoredClasses: ["notes"] });
}
