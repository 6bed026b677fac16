// Included by a Vec's header above it: the polynomial of exp2 for the Vecs that have no better way.
#pragma once

namespace {

// 2^f on [-1/2, 1/2], minimax of degree 5 with 2^0 = 1 kept exact: 9.2e-8 relative, 1.6e-7 with float rounding. One
// degree less (2.8e-6) is invisible to a chi-squared test and plain on a grid of uniforms.
template <class Vec>
inline Vec exp2_fraction(Vec f) {
  Vec p = Vec::set(1.3264727e-3f);
  p = Vec::fma(p, f, Vec::set(9.671513e-3f));
  p = Vec::fma(p, f, Vec::set(5.5507336e-2f));
  p = Vec::fma(p, f, Vec::set(2.4022242e-1f));
  p = Vec::fma(p, f, Vec::set(6.931470e-1f));
  return Vec::fma(p, f, Vec::set(1.0f));
}

}  // namespace
