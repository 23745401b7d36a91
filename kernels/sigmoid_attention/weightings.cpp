// How scores become weights, and what flows back: one line of SERVED for each weighting of the engine.

#pragma once

#include "products.cpp"

namespace {

// Weights that look at one score alone: p of a vector of scores, and dp/ds of one of weights, which is 0
// where p is 0. A NaN must stay one.
struct Sigmoid {
  static vec weight(vec s) { return 1.0f / (1.0f + exp_(-s)); }
  static vec slope(vec p) { return p * (1.0f - p); }
};

struct Relu {
  static vec weight(vec s) { return s < 0.0f ? vec{} : s; }
  static vec slope(vec p) { return p > 0.0f ? splat(1.0f) : vec{}; }
};

// Scores of a row, in place; only from to to are visible, but whole vectors may be written. bias: one for
// each score, or null.
template <class Map>
void weigh(float* x, const float* bias, float row, int64_t from, int64_t to) {
  int64_t j = from / VL * VL;
  if (bias)
    for (; j < to; j += VL) store(x + j, Map::weight(load(x + j) + load(bias + j) + row));
  else
    for (; j < to; j += VL) store(x + j, Map::weight(load(x + j) + row));
}

void add_to(float* total, vec sum) {
  for (int i = 0; i < VL; i++) *total += sum[i];
}

// ds in place of d, which is dp, over whole vectors; drow: where their sum is added, or null.
template <class Map>
void send_back(const float* p, float* d, int64_t wide, float* drow) {
  vec sum = vec{};
  for (int64_t j = 0; j < wide; j += VL) {
    vec ds = Map::slope(load(p + j)) * load(d + j);
    store(d + j, ds);
    sum += ds;
  }
  if (drow) add_to(drow, sum);
}

// The weights of a row depend on each other.
void weigh_softmax(float* x, const float* bias, float, int64_t from, int64_t to) {
  if (to <= from) return;
  if (bias)
    for (int64_t j = from / VL * VL; j < to; j += VL) store(x + j, load(x + j) + load(bias + j));
  float most = *std::max_element(x + from, x + to);
  vec total = vec{};
  for (int64_t j = from / VL * VL; j < to; j += VL) store(x + j, exp_(load(x + j) - most));
  std::fill(x + from / VL * VL, x + from, 0.0f);
  std::fill(x + to, x + round_up(to, VL), 0.0f);
  for (int64_t j = from / VL * VL; j < to; j += VL) total += load(x + j);
  float sum = 0.0f;
  add_to(&sum, total);
  for (int64_t j = from / VL * VL; j < to; j += VL) store(x + j, load(x + j) / sum);
}

void send_back_softmax(const float* p, float* d, int64_t wide, float* drow) {
  vec dot = vec{};
  for (int64_t j = 0; j < wide; j += VL) dot += load(p + j) * load(d + j);
  float delta = 0.0f;
  add_to(&delta, dot);
  vec sum = vec{};
  for (int64_t j = 0; j < wide; j += VL) {
    vec ds = load(p + j) * (load(d + j) - delta);
    store(d + j, ds);
    sum += ds;
  }
  if (drow) add_to(drow, sum);
}

struct Weighting {
  const char* name;
  bool whole_rows;  // all scores of a row at once, or any part of them
  void (*weigh)(float* x, const float* bias, float row, int64_t from, int64_t to);
  void (*send_back)(const float* p, float* d, int64_t wide, float* drow);
};

template <class Map>
constexpr Weighting alone(const char* name) {
  return {name, false, weigh<Map>, send_back<Map>};
}

constexpr Weighting SERVED[] = {
    {"softmax", true, weigh_softmax, send_back_softmax},
    alone<Sigmoid>("sigmoid"),
    alone<Relu>("relu"),
};

}  // namespace

extern "C" {

// The number of a weighting by its name; -1 for one that is not served.
int64_t sigmoid_attention_weighting(const char* name) {
  for (const Weighting& one : SERVED)
    if (!std::strcmp(one.name, name)) return &one - SERVED;
  return -1;
}

}  // extern "C"
