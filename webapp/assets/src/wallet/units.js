// Exact PRLX, all significant digits.
export function prlx(wei) {
  const text = wei.toString().padStart(19, "0");
  const whole = text.slice(0, -18).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  const part = text.slice(-18).replace(/0+$/, "");
  return part ? `${whole}.${part}` : whole;
}

// Wei of an amount as people type it (250, 0.5, 50,000, 50 000); null unless it is above zero and fits a uint128.
// A comma that does not separate thousands is refused: 1,5 could mean 15 or 1.5.
export function wei(text) {
  const match = /^(\d{1,20}|\d{1,3}(?:[,\s]\d{3}){1,6})(?:\.(\d{1,18}))?$/.exec(text.trim());
  const found = match && BigInt(match[1].replace(/[,\s]/g, "") + (match[2] ?? "").padEnd(18, "0"));
  return found && found < 2n ** 128n ? found : null;
}
