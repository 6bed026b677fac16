// Rows and positions: row r of the logits (or of any row-shaped argument) <-> (sequence b, canvas position p).
#pragma once

#include "dtype.h"
#include "params.h"

namespace dlm {

// Every rows-shaped argument has leading shape [B, W] (dense) or [R] (packed, W = 0).
struct Geometry {
  int64_t batch = 0;  // B
  int64_t width = 0;  // W; 0 when packed
  int64_t num_rows = 0;
  int64_t length = 0;  // L
  int64_t shift = 0;
  int64_t limit = -1;  // packed: B * L, what a row must lie below; -1: unknown. Values on a device come unchecked
  bool packed = false;
  Array start, rows;
};

struct Place {
  int64_t b;  // -1: padding row
  int64_t p;
};

DLM_HD int64_t int_at(const Array& a, int64_t i) {  // of a [1] or [n] int64 vector
  return static_cast<const int64_t*>(a.data)[a.ndim == 0 || a.shape[0] == 1 ? 0 : i * a.stride[0]];
}

DLM_HD float float_at(const Array& a, int64_t i) {
  return static_cast<const float*>(a.data)[a.ndim == 0 || a.shape[0] == 1 ? 0 : i * a.stride[0]];
}

DLM_HD double double_at(const Array& a, int64_t i) {
  return static_cast<const double*>(a.data)[a.ndim == 0 || a.shape[0] == 1 ? 0 : i * a.stride[0]];
}

// a / b for b > 0, a >= 0. GPUs have no 64-bit division, and hardly any batch needs one.
DLM_HD int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// The sequence of a dense row; 0 for packed ones, which say it themselves.
DLM_HD int64_t sequence_of(const Geometry& g, int64_t r) {
  return g.packed || g.batch == 1 || g.width == 0 ? 0 : quotient(r, g.width);
}

// Where a row is; and what else is asked once before a row is read, in place, and now and then after it, by calls.
// `b`: its sequence_of, where somebody has it already.
DLM_HD Place find_place(const Geometry& g, int64_t r, int64_t b) {
  Place at = {-1, -1};
  if (g.packed) {
    const int64_t flat = int_at(g.rows, r);
    if (flat >= 0 && (flat < g.limit || g.limit < 0)) {
      at.b = quotient(flat, g.length);
      at.p = flat - at.b * g.length;
    }
  } else {
    at.b = b;
    at.p = r - b * g.width;
    // Unsigned: on a device `start` comes unchecked, and is_candidate judges what it leads to.
    if (given(g.start))
      at.p = static_cast<int64_t>(static_cast<uint64_t>(at.p) + static_cast<uint64_t>(int_at(g.start, at.b)));
  }
  return at;
}
DLM_HD Place find_place(const Geometry& g, int64_t r) { return find_place(g, r, sequence_of(g, r)); }
DLM_HD_CALL Place place_of(const Geometry& g, int64_t r) { return find_place(g, r); }

// visit(row, place) for every row in order, padding included. Dense rows spare the divisions of place_of.
template <class Visit>
inline void for_each_place(const Geometry& g, Visit visit) {
  if (g.packed) {
    for (int64_t row = 0; row < g.num_rows; ++row) visit(row, place_of(g, row));
    return;
  }
  for (int64_t b = 0; b < g.batch; ++b) {
    const auto start = static_cast<uint64_t>(given(g.start) ? int_at(g.start, b) : 0);  // unsigned as above
    for (int64_t i = 0; i < g.width; ++i) {
      visit(b * g.width + i, Place{b, static_cast<int64_t>(start + static_cast<uint64_t>(i))});
    }
  }
}

// Element offset of row r in a rows-shaped view, 64-bit throughout: 4096 rows of 262144 logits pass 2^30.
DLM_HD_CALL int64_t row_offset(const Geometry& g, const Array& a, int64_t r) {
  if (a.ndim < 2 || g.packed || g.width == 0) return r * a.stride[0];
  const int64_t b = quotient(r, g.width);
  return b * a.stride[0] + (r - b * g.width) * a.stride[1];
}

// The logits row that speaks for row r's position: with shift -1 the one before; the first speaks for itself too.
DLM_HD int64_t find_logits(const Geometry& g, const Array& logits, int64_t r, int64_t b) {
  if (g.packed) return r * logits.stride[0];
  if (logits.ndim == 2) return max_of<int64_t>(0, r + g.shift) * logits.stride[0];
  return b * logits.stride[0] + max_of<int64_t>(0, r - b * g.width + g.shift) * logits.stride[1];
}
DLM_HD int64_t find_logits(const Geometry& g, const Array& logits, int64_t r) {
  return find_logits(g, logits, r, sequence_of(g, r));
}
DLM_HD_CALL int64_t logits_offset(const Geometry& g, const Array& logits, int64_t r) {
  return find_logits(g, logits, r);
}

// A caller's bool is a byte, and any but 0 is true: bytes that were viewed as bool may be others than 0 and 1.
DLM_HD bool bool_at(const Array& flags, int64_t offset) { return static_cast<const uint8_t*>(flags.data)[offset] != 0; }

DLM_HD bool flag_at(const Array& flags, const Place& at) {  // of [B, L] bool; false where not given
  return given(flags) && bool_at(flags, at.b * flags.stride[0] + at.p * flags.stride[1]);
}

DLM_HD int64_t find_token(const Array& x, const Place& at) {
  if (at.b < 0 || at.p < 0 || at.p >= x.shape[1]) return -1;
  return load_int(x.data, x.dtype, at.b * x.stride[0] + at.p * x.stride[1]);
}
DLM_HD_CALL int64_t token_on_canvas(const Array& x, Place at) { return find_token(x, at); }

// Of a position on the canvas: whether it waits for a token.
DLM_HD bool is_open(const DecideParams& d, const Place& at) { return !d.has_mask || find_token(d.x, at) == d.mask_id; }

// Whether a step may write this position; only its logits are read.
DLM_HD bool may_write(const DecideParams& d, const Place& at) {
  const int64_t stop = d.window_stop < 0 ? d.x.shape[1] : d.window_stop;
  if (at.b < 0 || at.p < 0 || at.p >= d.x.shape[1] || at.p < d.window_start || at.p >= stop) return false;
  if ((d.writes & (is_open(d, at) ? kMask : kToken)) == 0) return false;
  return !flag_at(d.frozen, at) && !flag_at(d.committed, at) &&
         !(given(d.done) && bool_at(d.done, at.b * d.done.stride[0]));
}
DLM_HD_CALL bool is_candidate(const DecideParams& d, Place at) { return may_write(d, at); }

}  // namespace dlm
