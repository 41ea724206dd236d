// The address names the open tab (#draw), so that a refresh, back and forward keep it; the drawer of the model.
const names = () => [...document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")]
  .map((tab) => [tab.id.replace(/^tab-|-button$/g, ""), tab]);
const opened = () => names().find(([, tab]) => tab.getAttribute("aria-selected") === "true");
let followed = ""; // the tab that the address was last made to name
const follow = () => { // the address follows the tab, however it was opened
  const now = opened()?.[0];
  if (!now || now === followed) return;
  const wanted = followed ? "" : location.hash.slice(1); // at first the tab follows the address
  const [, tab] = names().find(([name]) => name === wanted && name !== now) || [];
  if (tab) {
    followed = wanted;
    tab.click();
    return;
  }
  const address = `#${now}`;
  if (location.hash !== address) history[followed ? "pushState" : "replaceState"](history.state, "", address);
  followed = now;
};
const goBack = () => {
  const [name, tab] = names().find(([name]) => name === location.hash.slice(1)) || [];
  if (!tab || name === opened()?.[0]) return;
  followed = name;
  tab.click();
};
window.addEventListener("popstate", goBack);
new MutationObserver(follow).observe(document.documentElement, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
onChange(follow);

const drawer = () => document.getElementById("model-drawer");
const drawerOpen = () => Boolean(drawer()?.classList.contains("open"));
const toggleDrawer = async () => {
  const opening = !drawerOpen(), target = () => (opening ? drawer().querySelector("[data-janus=drawer]") : button("model-change"));
  drawer().querySelector(".toggle-button").click();
  for (let tries = 0; tries < 40 && document.activeElement !== target(); tries += 1) {
    await wait(30); // until it has begun to move, which makes its buttons visible
    target()?.focus();
  }
};
document.addEventListener("click", (event) => {
  if (event.target.closest?.("#model-change")) toggleDrawer();
});
