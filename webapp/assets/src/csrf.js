// POST JSON with the page's CSRF token.
export function post(url, body, options = {}) {
  const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";
  return fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRFToken": token },
    body: JSON.stringify(body),
    ...options,
  });
}
