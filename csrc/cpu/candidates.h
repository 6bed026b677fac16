// The rows that a step may write: which they are, whose they are, and in which order a rule takes them.
#pragma once

#include "../core/commit.h"
#include "scratch.h"

namespace dlm::cpu {

// Candidate rows of every sequence, grouped: scratch.candidate[scratch.offset[b]] and on. Packed rows may name
// sequences in any order. Returns how many there are.
int64_t group_candidates(const Geometry& g, const DecideParams& d, const Scratch& scratch);

// An eligible row joins the ranking of its sequence, at scratch.ranked + offset[b].
struct Ranking {
  Ranked* ranked;
  int64_t open = 0, filled = 0;  // candidates, by what they hold
  int64_t eligible = 0, bad = 0;

  Ranking(const Scratch& scratch, int64_t b) : ranked(scratch.ranked + scratch.offset[b]) {}
  void count(bool is_open) { ++(is_open ? open : filled); }
  void add(double key, int64_t position, int64_t row) { ranked[eligible++] = {key, position, row}; }
};

// How many of the ranked rows the rule accepts; they are at the front then.
int64_t accept_ranked(const RuleParams& rule, const Ranking& ranking, const Scratch& scratch);

}  // namespace dlm::cpu
