// Gradio's gallery uses the caption as alternative text; the real alternative texts are in a hidden list.
const setAltTexts = () => {
  for (const entry of document.querySelectorAll("#draw-alts [data-picture]")) {
    const ending = "/" + encodeURIComponent(entry.dataset.picture);
    for (const picture of document.querySelectorAll("#draw-gallery img"))
      if (picture.src.endsWith(ending) && picture.alt !== entry.dataset.alt) picture.alt = entry.dataset.alt;
  }
};
const changes = { subtree: true, childList: true, attributes: true, attributeFilter: ["src", "alt"] };
new MutationObserver(setAltTexts).observe(document.documentElement, changes);
