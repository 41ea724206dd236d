// The edit tab on a small screen: the stage may be out of sight when the drawing begins.
let editing = false;
onChange(() => {
  const begins = Boolean(document.querySelector("#edit-easel .easel"));
  if (begins && !editing) document.getElementById("edit-stage").scrollIntoView({ block: "nearest" });
  editing = begins;
});
