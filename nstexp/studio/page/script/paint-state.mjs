// The settings of a picture, as the page keeps them and as the server takes them.

export const METHODS = {
  swift: { title: "Swift", text: "Any painting, at once. The picture follows the sliders.", live: true, alpha: true, stroke: true, px: 1024 },
  adain: { title: "AdaIN", text: "Any painting, in a second or two, in bolder strokes.", live: true, alpha: true, stroke: true, px: 768 },
  cin: { title: "Learned styles", text: "16 paintings that one network knows by heart, and all their mixtures.", live: true, px: 1024 },
  gatys: { title: "Gatys", text: "The best quality. Takes minutes, and you see the picture grow.", live: false, stroke: true, steps: true, px: 512 },
};
export const COLORS = {
  none: "Those of the painting",
  preserve: "Those of the photo",
  luminance: "Those of the photo, exactly",
  match: "Those of the painting, matched again",
};
export const SIZES = [384, 512, 768, 1024, 1536, 2048, 3072];
export const DEFAULTS = {
  method: "swift", mix: 0.5, weights: [1, 1, 1, 1], masks: null, alpha: 1, beta: 1000, stroke: 1, color: "none", color_strength: 1,
  photorealism: 0, faces: false, kept: null, protect_strength: 0.7, size: null, steps: 200, seed: 0,
};

export function pictureOf(name, size) {
  if (name.startsWith("upload:")) return `/api/paint/uploads/${encodeURIComponent(name)}`;
  return `/api/gallery/${size}/${encodeURIComponent(name)}`;
}

const longer = (photo) => Math.max(photo.width, photo.height);
export const sizeOf = (state) => state.size ?? METHODS[state.method].px;

// The longer side of the result; null: the size of the photo.
export const imagePx = (state) => (sizeOf(state) === "own" || sizeOf(state) >= longer(state.content) ? null : sizeOf(state));
export const longerSide = (state) => imagePx(state) ?? longer(state.content);

export function sharesOf(state) {
  if (state.styles.length < 2 || state.masks) return [];
  if (state.styles.length === 2) return [1 - state.mix, state.mix].map((share) => Math.round(share * 100) / 100);
  const weights = state.weights.slice(0, state.styles.length);
  return weights.some((weight) => weight > 0) ? weights : [];
}

export function toSent(state) {
  const method = METHODS[state.method];
  const sent = {
    method: state.method, content: state.content.name, styles: state.styles.map((style) => style.name), shares: sharesOf(state),
    masks: state.styles.length > 1 && state.masks ? state.masks : [],
    color: state.color, color_strength: state.color_strength, photorealism: state.photorealism,
    protect: [...(state.faces ? ["faces"] : []), ...(state.kept ? [state.kept] : [])], protect_strength: state.protect_strength,
    image_px: imagePx(state), seed: state.seed,
  };
  if (method.alpha) sent.alpha = state.alpha;
  if (method.stroke) sent.stroke = state.stroke;
  if (method.steps) Object.assign(sent, { beta: state.beta, steps: state.steps });
  return sent;
}

export function fromSent(sent, known, styleOf) {
  const photo = known.get(sent.content);
  const values = {};
  for (const key of ["method", "alpha", "beta", "stroke", "color", "color_strength", "photorealism", "protect_strength", "steps", "seed"]) {
    values[key] = sent[key] ?? DEFAULTS[key];
  }
  const shares = sent.shares ?? [];
  return {
    ...DEFAULTS, ...values,
    content: { ...photo, picture: pictureOf(photo.name, "view") },
    styles: sent.styles.map((name) => styleOf(name, known.get(name) ?? {})),
    mix: shares.length === 2 ? shares[1] / (shares[0] + shares[1]) : 0.5,
    weights: [0, 1, 2, 3].map((number) => shares[number] ?? 1),
    masks: sent.masks?.length ? sent.masks : null,
    faces: (sent.protect ?? []).includes("faces"),
    kept: (sent.protect ?? []).find((name) => name !== "faces") ?? null,
    size: sent.image_px ?? "own",
  };
}
