// A photo from the camera of this machine: a file, or null where none was taken. The dialog says where there is no camera.
const takePhoto = async (dialog) => {
  const video = dialog.querySelector("video"), canvas = document.createElement("canvas");
  const stream = await navigator.mediaDevices?.getUserMedia({ video: true }).catch(() => null);
  dialog.classList.toggle("blind", !stream);
  video.srcObject = stream ?? null;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
  if (stream) canvas.getContext("2d").drawImage(video, 0, 0);
  stream?.getTracks().forEach((track) => track.stop());
  if (dialog.returnValue !== "take" || !canvas.width) return null;
  const picture = await new Promise((made) => canvas.toBlob(made, "image/png"));
  return new File([picture], "photo.png", { type: "image/png" });
};
