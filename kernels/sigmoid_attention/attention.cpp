// Attention for CPUs, float32, in blocks that stay in a core's caches.
//
// Plain C interface, no torch headers: it compiles in seconds. Every product is one small routine,
// C (+)= A B with A read one scalar at a time (any strides) and B, C in rows of whole vectors; so a
// transpose is only a choice of strides. Shapes as in sigmoid_attention/tiles.py.

#include <vector>

#include <omp.h>

#include "products.cpp"
#include "weightings.cpp"

extern "C" {

// Strides are in elements, of (batch, head, time); channels are adjacent. Missing inputs are null.
struct Strided { const float* data; int64_t b, h, t; };

struct Call {
  int64_t batch, heads, kv_heads, queries, keys, d, dv, weighting, threads, splits;
  Strided q, k, v, do_;
  const int32_t *lo, *hi;      // runs (B', T)
  int64_t run_stride;          // 0 where B' is 1
  const float* row;            // (B'', H', T) added to scores
  int64_t row_b, row_h, row_t;
  const float* bias;           // (H, VL + T + S - 1 + VL), lowest offset first, added to scores
  const float *u, *vb, *r;     // (H, D), (H, D), (H, T + S - 1, Dp), Dp = D up to whole vectors
  const float* rt;             // r transposed: (H, D, rt_stride), zeros from T + S - 1 on
  int64_t rt_stride;           // at least T + S - 1 and a block of scores more
  double scale;
  float* o;                    // (B, H, T, Dv)
  float *dq, *dk, *dv_out, *dqv;  // (B, H, T, D), (B, Hk, S, D), (B, Hk, S, Dv), as dq
  float* drow;                 // (B, H, T)
  float *dbias, *dr;           // (splits, B, H, T + S - 1[, Dp]), zeroed by the caller

  const Weighting& how() const { return SERVED[weighting]; }
};

}  // extern "C"

namespace {

constexpr int64_t QUERIES = 48, KEYS = 128;  // one block of scores: 24 KB

// The sizes that follow from a call.
struct Shape {
  int64_t dp, dvp, blocks, offsets, group, q_blocks;
  explicit Shape(const Call& c)
      : dp(round_up(c.d, VL)), dvp(round_up(c.dv, VL)), blocks((c.keys + KEYS - 1) / KEYS),
        offsets(c.queries + c.keys - 1), group(c.heads / c.kv_heads),
        q_blocks((c.queries + QUERIES - 1) / QUERIES) {}
};

// One key head's k and v: natural rows padded with zeros, and in blocks of KEYS transposed.
// A thread's memory for it is taken once: freed for each task it would go back to the system.
struct Packed {
  Buffer k, v, kt, vt;
  Packed(const Call& c, const Shape& z, bool backward) {
    int64_t num_keys = round_up(c.keys, KEYS);
    kt = buffer(num_keys * c.d);
    (backward ? k : v) = buffer(num_keys * (backward ? z.dp : z.dvp));
    if (backward) vt = buffer(num_keys * c.dv);
  }
};

void seen_keys(const Call& c, int64_t b, int64_t* first, int64_t* last) {
  *first = 0, *last = c.keys;
  if (!c.hi) return;
  *first = c.keys, *last = 0;
  for (int64_t t = 0; t < c.queries; t++) {
    int64_t at = b * c.run_stride + t;
    if (c.hi[at] <= c.lo[at]) continue;
    *first = std::min<int64_t>(*first, c.lo[at]);
    *last = std::max<int64_t>(*last, c.hi[at]);
  }
}

void pack_one(const Call& c, const Strided& x, int64_t b, int64_t hk, int64_t width, int64_t padded,
              float* rows, float* blocks) {
  int64_t first, last, num_keys = round_up(c.keys, KEYS);
  seen_keys(c, b, &first, &last);
  if (rows) std::memset(rows, 0, num_keys * padded * 4);
  if (blocks) std::memset(blocks, 0, num_keys * width * 4);
  for (int64_t s = first; s < last; s++) {
    const float* from = x.data + b * x.b + hk * x.h + s * x.t;
    if (rows) std::memcpy(rows + s * padded, from, width * 4);
    if (!blocks) continue;
    float* to = blocks + (s / KEYS) * KEYS * width + s % KEYS;
    for (int64_t d = 0; d < width; d++) to[d * KEYS] = from[d];
  }
}

// The work of one thread on a block of queries: its rows and a strip of scores. Of rows and keys those
// from the first to the last that see each other are computed: rows t0 to t1, keys first to last.
struct Rows {
  const Call& c;
  const Shape z;
  int64_t b, h, t0, t1, t_end, first, last, strip;
  int64_t g_low;  // column of the table of offsets that g starts with; -1: none yet
  Buffer q, qv, s, dp, g, skewed, d_o, dq, dqv;

  Rows(const Call& call, int64_t strip_width, bool backward)
      : c(call), z(call), b(0), h(0), t0(0), t1(0), t_end(0), first(0), last(0), strip(strip_width),
        g_low(-1) {
    q = zeros(QUERIES * z.dp);
    s = buffer(QUERIES * strip);
    if (c.r) {
      qv = zeros(QUERIES * z.dp);
      g = buffer(QUERIES * band_width());
      if (backward) skewed = buffer(QUERIES * band_width());
    }
    d_o = zeros(QUERIES * z.dvp);
    if (!backward) return;
    dp = buffer(QUERIES * strip);
    dq = buffer(QUERIES * z.dp);
    dqv = buffer(QUERIES * z.dp);
  }

  static constexpr int64_t band_width() { return QUERIES + KEYS; }  // one more than it needs

  // Load a block of queries; false where none of its rows sees a key.
  bool begin(int64_t b_, int64_t h_, int64_t q_block) {
    b = b_, h = h_, t0 = q_block * QUERIES, t1 = t_end = std::min(t0 + QUERIES, c.queries);
    first = 0, last = c.keys, g_low = -1;
    if (c.hi) {
      first = c.keys, last = 0, t1 = t0;
      for (int64_t t = t0; t < t_end; t++) {
        if (hi(t) <= lo(t)) continue;
        first = std::min(first, lo(t)), last = std::max(last, hi(t)), t1 = t + 1;
      }
    }
    if (last <= first) return false;
    for (int64_t t = t0; t < t1; t++) {
      const float* from = c.q.data + b * c.q.b + h * c.q.h + t * c.q.t;
      bool sees = hi(t) > lo(t);
      for (int64_t d = 0; d < c.d; d++) {
        float x = sees ? from[d] : 0.0f;
        q[(t - t0) * z.dp + d] = (x + (c.u ? c.u[h * c.d + d] : 0.0f)) * float(c.scale);
        if (c.r) qv[(t - t0) * z.dp + d] = (x + c.vb[h * c.d + d]) * float(c.scale);
      }
    }
    return true;
  }

  int64_t lo(int64_t t) const { return c.lo ? c.lo[b * c.run_stride + t] : 0; }
  int64_t hi(int64_t t) const { return c.hi ? c.hi[b * c.run_stride + t] : c.keys; }
  int64_t num() const { return t1 - t0; }
  // Column of offset (s - t) in a table of all offsets.
  int64_t column(int64_t s, int64_t t) const { return s - t + c.queries - 1; }

  // First and last strips: whole blocks of keys, the strip's columns counted from s0.
  int64_t strip_begin() const { return first / KEYS * KEYS; }
  int64_t strip_end(int64_t s0) const { return std::min(s0 + strip, round_up(last, KEYS)); }
  int64_t count(int64_t s0, int64_t most) const { return std::min(most, last - s0); }

  // Scores of one strip, then weights in their place.
  void weights(const Packed& kv, int64_t s0, int64_t s1) {
    for (int64_t s_at = s0; s_at < s1; s_at += KEYS) {
      int64_t width = round_up(count(s_at, KEYS), VL);
      float* out = s.get() + (s_at - s0);
      gemm(num(), width, c.d, q.get(), z.dp, 1, kv.kt.get() + s_at * c.d, KEYS, out, strip, false);
      if (c.r) add_relative(out, s_at, width);
    }
    for (int64_t t = t0; t < t1; t++) row_weights(t, s0, std::min(s1, last));
  }

  // g = qv R^T over the block's offsets, then each row of it starts one column earlier. The offsets
  // that the block before this one met too are not computed again.
  void add_relative(float* out, int64_t s_at, int64_t width) {
    int64_t low = column(s_at, t1 - 1), wide = round_up(width + num() - 1, VL), known = 0;
    if (g_low >= 0 && g_low + KEYS == low) {
      known = round_up(num() - 1, VL);
      shift(g.get(), known);
    }
    g_low = low;
    gemm(num(), wide - known, c.d, qv.get(), z.dp, 1, c.rt + h * c.d * c.rt_stride + low + known,
         c.rt_stride, g.get() + known, band_width(), false);
    for (int64_t i = 0; i < num(); i++) {
      const float* from = g.get() + i * band_width() + (num() - 1 - i);
      float* to = out + i * strip;
      for (int64_t j = 0; j < width; j += VL) store(to + j, load(to + j) + load(from + j));
    }
  }

  // Move the columns after the first KEYS to the front.
  void shift(float* x, int64_t columns) const {
    for (int64_t i = 0; i < num(); i++)
      std::memcpy(x + i * band_width(), x + i * band_width() + KEYS, columns * 4);
  }

  void row_weights(int64_t t, int64_t s0, int64_t s1) {
    float* x = s.get() + (t - t0) * strip;
    int64_t wide = round_up(s1 - s0, VL);
    float row = c.row ? c.row[b * c.row_b + h * c.row_h + t * c.row_t] : 0.0f;
    const float* bias = c.bias ? c.bias + h * (z.offsets + 2 * VL) + VL + column(s0, t) : nullptr;
    int64_t from = std::clamp(lo(t) - s0, int64_t(0), s1 - s0);
    int64_t to = std::clamp(hi(t) - s0, from, s1 - s0);
    c.how().weigh(x, bias, row, from, to);
    std::fill(x, x + from, 0.0f);
    std::fill(x + to, x + wide, 0.0f);
  }

  // ds in place of dp, from p in s.
  void score_gradients(int64_t s0, int64_t s1) {
    int64_t wide = round_up(count(s0, s1 - s0), VL);
    for (int64_t t = t0; t < t1; t++) {
      float *p = s.get() + (t - t0) * strip, *d = dp.get() + (t - t0) * strip;
      float* drow = c.drow ? c.drow + (b * c.heads + h) * c.queries + t : nullptr;
      c.how().send_back(p, d, wide, drow);
    }
  }

  // Load the block's output gradient; rows without keys are zero.
  void load_do() {
    for (int64_t t = t0; t < t1; t++) {
      float* to = d_o.get() + (t - t0) * z.dvp;
      if (hi(t) > lo(t))
        std::memcpy(to, c.do_.data + b * c.do_.b + h * c.do_.h + t * c.do_.t, c.dv * 4);
      else
        std::memset(to, 0, c.dv * 4);
    }
  }

  // Everything one strip gives back; dk and dv are this task's sums over all keys.
  void backward_strip(const Packed& kv, int64_t s0, int64_t s1, int64_t split, float* dk, float* dv) {
    weights(kv, s0, s1);
    for (int64_t s_at = s0; s_at < s1; s_at += KEYS)
      gemm(num(), round_up(count(s_at, KEYS), VL), c.dv, d_o.get(), z.dvp, 1,
           kv.vt.get() + s_at * c.dv, KEYS, dp.get() + (s_at - s0), strip, false);
    score_gradients(s0, s1);
    for (int64_t s_at = s0; s_at < s1; s_at += KEYS) {
      int64_t keys = count(s_at, KEYS);
      const float *p = s.get() + (s_at - s0), *ds = dp.get() + (s_at - s0);
      gemm(num(), z.dp, keys, ds, strip, 1, kv.k.get() + s_at * z.dp, z.dp, dq.get(), z.dp, true);
      gemm(keys, z.dvp, num(), p, 1, strip, d_o.get(), z.dvp, dv + s_at * z.dvp, z.dvp, true);
      gemm(keys, z.dp, num(), ds, 1, strip, q.get(), z.dp, dk + s_at * z.dp, z.dp, true);
      if (c.r) backward_relative(ds, s_at, keys, split);
      if (c.dbias) backward_bias(ds, s_at, keys, split);
    }
  }

  void backward_bias(const float* ds, int64_t s_at, int64_t count, int64_t split) {
    float* sums = c.dbias + ((split * c.batch + b) * c.heads + h) * z.offsets;
    for (int64_t i = 0; i < num(); i++) {
      float* to = sums + column(s_at, t0 + i);
      int64_t j = 0;
      for (; j + VL <= count; j += VL) store(to + j, load(to + j) + load(ds + i * strip + j));
      for (; j < count; j++) to[j] += ds[i * strip + j];
    }
  }

  // ds with row i moved right, so that columns are offsets; those that later blocks cannot meet any
  // more go into dqv and dr, the others wait for the next block, whose ds comes right after them.
  void backward_relative(const float* ds, int64_t s_at, int64_t count, int64_t split) {
    int64_t n = num(), low = column(s_at, t1 - 1), ld = band_width();
    bool is_first = s_at <= first, is_last = s_at + KEYS >= last;
    int64_t wide = is_last ? count + n - 1 : KEYS;
    for (int64_t i = 0; i < n; i++) {
      float *row = skewed.get() + i * ld, *own = row + (n - 1 - i);
      if (is_first) std::fill(row, own, 0.0f);
      std::memcpy(own, ds + i * strip, count * 4);
      if (is_last) std::fill(own + count, row + wide, 0.0f);
    }
    float* dr = c.dr + (((split * c.batch + b) * c.heads + h) * z.offsets + low) * z.dp;
    const float* r = c.r + (h * z.offsets + low) * z.dp;
    gemm(n, z.dp, wide, skewed.get(), ld, 1, r, z.dp, dqv.get(), z.dp, true);
    gemm(wide, z.dp, n, skewed.get(), 1, ld, qv.get(), z.dp, dr, z.dp, true);
    shift(skewed.get(), n - 1);
  }

  // Copy this block's rows out of a padded buffer into (B, H, T, width).
  void write(const float* from, int64_t padded, float* to, int64_t width) const {
    for (int64_t t = t0; t < t_end; t++)
      std::memcpy(to + ((b * c.heads + h) * c.queries + t) * width, from + (t - t0) * padded, width * 4);
  }
};

int64_t strip_width(const Call& c) { return c.how().whole_rows ? round_up(c.keys, KEYS) : KEYS; }

// One key head of one utterance. Each task packs for itself: threads that share a head do it twice,
// which costs less than waiting for each other.
void pack(const Call& c, const Shape& z, int64_t b, int64_t hk, Packed& p) {
  pack_one(c, c.k, b, hk, c.d, z.dp, p.k.get(), p.kt.get());
  pack_one(c, c.v, b, hk, c.dv, z.dvp, p.v.get(), p.vt.get());
}

// Forward of one key head over a share of the blocks of queries.
void forward_task(const Call& c, Rows& rows, Packed& kv, float* o, int64_t b, int64_t hk,
                  int64_t split) {
  const Shape& z = rows.z;
  pack(c, z, b, hk, kv);
  for (int64_t h = hk * z.group; h < (hk + 1) * z.group; h++)
    for (int64_t qb = split; qb < z.q_blocks; qb += c.splits) {
      bool some = rows.begin(b, h, qb);
      std::memset(o, 0, QUERIES * z.dvp * 4);
      for (int64_t s0 = rows.strip_begin(); some && s0 < rows.last; s0 += rows.strip) {
        int64_t s1 = rows.strip_end(s0);
        rows.weights(kv, s0, s1);
        gemm(rows.num(), z.dvp, rows.count(s0, s1 - s0), rows.s.get(), rows.strip, 1, kv.v.get() + s0 * z.dvp, z.dvp,
             o, z.dvp, true);
      }
      rows.write(o, z.dvp, c.o, c.dv);
    }
}

// Backward of one key head over a share of the blocks of queries; sums into dk (S, Dp), dv (S, Dvp).
void backward_task(const Call& c, Rows& rows, Packed& kv, int64_t b, int64_t hk, int64_t split,
                   float* dk, float* dv) {
  const Shape& z = rows.z;
  pack(c, z, b, hk, kv);
  for (int64_t h = hk * z.group; h < (hk + 1) * z.group; h++)
    for (int64_t qb = split; qb < z.q_blocks; qb += c.splits) {
      bool some = rows.begin(b, h, qb);
      std::memset(rows.dq.get(), 0, QUERIES * z.dp * 4);
      std::memset(rows.dqv.get(), 0, QUERIES * z.dp * 4);
      if (some) {
        rows.load_do();
        for (int64_t s0 = rows.strip_begin(); s0 < rows.last; s0 += rows.strip)
          rows.backward_strip(kv, s0, rows.strip_end(s0), split, dk, dv);
      }
      rows.write(rows.dq.get(), z.dp, c.dq, c.d);
      if (c.r) rows.write(rows.dqv.get(), z.dp, c.dqv, c.d);
    }
}

// out (S, width) = the sum over splits of sums[split] (S, padded). One split at a time, so that whole
// vectors are added.
void reduce(const Buffer* sums, int64_t splits, int64_t num, int64_t padded, float* out, int64_t width) {
  for (int64_t s = 0; s < num; s++) {
    float* __restrict to = out + s * width;
    std::fill(to, to + width, 0.0f);
    for (int64_t i = 0; i < splits; i++) {
      const float* __restrict from = sums[i].get() + s * padded;
      for (int64_t d = 0; d < width; d++) to[d] += from[d];
    }
  }
}

void write_sums(const Call& c, const Shape& z, int64_t item, const Buffer* dk, const Buffer* dv) {
  reduce(dk, c.splits, c.keys, z.dp, c.dk + item * c.keys * c.d, c.d);
  reduce(dv, c.splits, c.keys, z.dvp, c.dv_out + item * c.keys * c.dv, c.dv);
}

}  // namespace

extern "C" {

int64_t sigmoid_attention_vector_length() { return VL; }

void sigmoid_attention_forward(const Call* call) {
  const Call& c = *call;
  const Shape z(c);
  int64_t tasks = c.batch * c.kv_heads * c.splits;
#pragma omp parallel num_threads(c.threads)
  {
    Rows rows(c, strip_width(c), false);
    Packed kv(c, z, false);
    Buffer o = buffer(QUERIES * z.dvp);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks; i++) {
      int64_t item = i / c.splits;
      forward_task(c, rows, kv, o.get(), item / c.kv_heads, item % c.kv_heads, i % c.splits);
    }
  }
}

void sigmoid_attention_backward(const Call* call) {
  const Call& c = *call;
  const Shape z(c);
  int64_t items = c.batch * c.kv_heads, tasks = items * c.splits;
  // Sums over all keys: one set per thread, or where threads share a head one per task.
  bool shared = c.splits > 1;
  std::vector<Buffer> dk(shared ? tasks : c.threads), dv(shared ? tasks : c.threads);
#pragma omp parallel num_threads(c.threads)
  {
    Rows rows(c, strip_width(c), true);
    Packed kv(c, z, true);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks; i++) {
      int64_t item = i / c.splits, at = shared ? i : omp_get_thread_num();
      if (!dk[at]) dk[at] = buffer(c.keys * z.dp), dv[at] = buffer(c.keys * z.dvp);
      std::memset(dk[at].get(), 0, c.keys * z.dp * 4);
      std::memset(dv[at].get(), 0, c.keys * z.dvp * 4);
      backward_task(c, rows, kv, item / c.kv_heads, item % c.kv_heads, i % c.splits, dk[at].get(),
                    dv[at].get());
      if (!shared) write_sums(c, z, item, &dk[at], &dv[at]);
    }
    if (shared) {
#pragma omp for schedule(dynamic)
      for (int64_t item = 0; item < items; item++)
        write_sums(c, z, item, &dk[item * c.splits], &dv[item * c.splits]);
    }
  }
}

}  // extern "C"
