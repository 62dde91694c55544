// Every page reads and works without this file. With it, whatever carries hx-trigger="refresh from:body" is fetched anew
// and morphed into place when the server says that something of the org changed.
import "htmx.org/dist/htmx.esm.js";

const path = document.body.dataset.events;
if (path) live(path);

// live refreshes on announcements, and every ten seconds in any case: an announcement can be lost, and ages grow. A
// hidden page is left alone and brought up to date when it is looked at again.
function live(path) {
  const lamp = document.getElementById("live");
  let source = null;

  const refresh = () => document.body.dispatchEvent(new CustomEvent("refresh"));
  const say = (state) => {
    if (lamp && lamp.dataset.state !== state) {
      lamp.dataset.state = state;
      lamp.textContent = { live: "Live", waiting: "Reconnecting…", paused: "Paused" }[state];
    }
  };
  const open = () => {
    if (source) return;
    source = new EventSource(path);
    source.onopen = () => say("live");
    source.onerror = () => {
      say("waiting");
      if (source.readyState === EventSource.CLOSED) close(); // refused: the timer tries again
    };
    source.addEventListener("changed", refresh);
  };
  const close = () => {
    source?.close();
    source = null;
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      say("paused");
    } else {
      open();
      refresh();
    }
  });
  setInterval(() => {
    if (document.hidden) return;
    open();
    refresh();
  }, 10_000);
  open();
}

// A log that is read at its end stays at its end when it grows.
let atEnd = true;
const log = () => document.getElementById("log");
const scrolled = () => {
  const el = log();
  atEnd = !el || el.scrollHeight - el.scrollTop - el.clientHeight < 24;
};
const follow = () => {
  const el = log();
  if (el && atEnd) el.scrollTop = el.scrollHeight;
};
document.addEventListener("scroll", scrolled, { capture: true, passive: true });
document.addEventListener("htmx:after:swap", follow);
follow();

// Copy buttons appear where the browser can copy.
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button || !navigator.clipboard) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = "Copied";
});
