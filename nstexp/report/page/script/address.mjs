// The state of the page in its address, behind the #, so that a reload and a copied link show the same.

export function readAddress(hash) {
  return Object.fromEntries(new URLSearchParams(hash.replace(/^#/, "")));
}

export function writeAddress(state) {
  const set = Object.entries(state).filter(([, value]) => value !== null && value !== undefined);
  return set.length ? `#${new URLSearchParams(set)}` : "";
}

// A store of texts; `put` with null forgets a name.
export function makeAddress(location, history) {
  const state = readAddress(location.hash);
  const own = { hash: location.hash };
  return {
    get: (name, otherwise = null) => state[name] ?? otherwise,
    put(name, value, otherwise = null) {
      if (value === null || value === undefined || value === otherwise) delete state[name];
      else state[name] = String(value);
      own.hash = writeAddress(state);
      history.replaceState(null, "", own.hash || location.pathname + location.search);
    },
    isForeign: () => location.hash !== own.hash && location.hash.includes("="),
  };
}
