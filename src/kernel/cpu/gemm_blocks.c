/* Products by blocks: each thread computes a part of C by tiles of the micro-kernel, from panels of A and B that it has
 * packed as f32. Operands that lie well for that are read where they are.
 *
 * What several threads need each packs for itself: that takes less time than to read what another core has written. */
#include "kernel/cpu/gemm_product.h"

enum {
    STRIP = 128,         /* columns of B that are packed at once, to be used while they are near */
    IN_PLACE_ROWS = 128, /* with more, packing B pays */
    COPY_DEPTH = 64,     /* of rows that are copied side by side */
    ALIASED = 1024,      /* rows as many floats apart compete for the same lines of a cache */
    PACKING = 24,        /* updates of an element of C that take as long as to pack one */
    MAX_NR = 32,
    MAX_KC = 576,
};

/* Of the time for elements of C in whose row other threads have a part. */
static const double FOREIGN = 1.04;

/* The part of C at (row, col) with the panels for it; depth from `depth_at`, both in steps of the kernel's unit. */
typedef struct block {
    int64_t row, rows, col, cols, depth_at, depth;
} block;

/* Of the whole depth, in units. */
static int64_t steps_of(const product *job) {
    return (job->k + job->kernel->unit - 1) / job->kernel->unit;
}

static int64_t panels(int64_t size, int64_t width) {
    return (size + width - 1) / width;
}

/* Elements of depth in the panels of `at`. */
static int64_t elements(const product *job, const block *at) {
    return smaller(at->depth * job->kernel->unit, job->k - at->depth_at * job->kernel->unit);
}

/* A strip's rows side by side, so that what is near in memory is read at once. In place, only what is no whole panel. */
static void pack_b(const product *job, const block *at) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t from = job->b_in_place ? at->cols / kernel->nr * kernel->nr : 0, cols = at->cols - from;
    if (cols > 0)
        tn_gemm_widen(kernel, job->packed_b, round_up(cols, kernel->nr),
                      tn_operand_part(job->b, at->depth_at * kernel->unit, at->col + from), elements(job, at), cols,
                      round_up(cols, kernel->nr));
}

static void pack_a(const product *job, const block *at) {
    const tn_gemm_kernel *kernel = job->kernel;
    for (int64_t i = 0, from; (from = i * kernel->mr) < at->rows; i++)
        tn_gemm_widen(kernel, job->packed_a + i * kernel->panel_a * at->depth, kernel->panel_a,
                      tn_operand_transposed(tn_operand_part(job->a, at->row + from, at->depth_at * kernel->unit)),
                      elements(job, at), smaller(at->rows - from, kernel->mr), kernel->panel_a);
}

/* The columns of B from `col` on, and how far apart its rows are. */
static const float *panel_of_b(const product *job, const block *at, int64_t col, int64_t *step) {
    const int64_t nr = job->kernel->nr, from = job->b_in_place ? at->cols / nr * nr : 0;
    if (col < from) {
        *step = job->b.row_stride;
        return tn_operand_part(job->b, at->depth_at, at->col + col).data;
    }
    *step = round_up(at->cols - from, nr);
    return job->packed_b + col - from;
}

/* In pieces, so that all rows are fetched side by side. */
static void copy_rows(const tn_gemm_kernel *kernel, float *to, int64_t stride, tn_operand from, int64_t rows,
                      int64_t depth) {
    for (int64_t p = 0; p < depth; p += COPY_DEPTH) {
        int64_t piece = smaller(depth - p, COPY_DEPTH);
        tn_gemm_widen(kernel, to + p, stride, tn_operand_part(from, 0, p), rows, piece, round_up(piece, kernel->panel_a));
    }
}

static void multiply_tiles(const product *job, const block *at) {
    const tn_gemm_kernel *kernel = job->kernel;
    float beta = at->depth_at ? 1.0f : job->beta, rows_of_a[MAX_PANEL * (MAX_KC + MAX_PANEL)];
    for (int64_t i = 0, from; (from = i * kernel->mr) < at->rows; i++) {
        int64_t row = at->row + from, rows = smaller(at->rows - from, kernel->mr), a_row = 1, a_step = kernel->panel_a;
        const float *a = job->packed_a + i * kernel->panel_a * at->depth;
        if (job->a_by_rows) {
            a = rows_of_a;
            a_row = round_up(at->depth, kernel->panel_a);
            a_step = 1;
            copy_rows(kernel, rows_of_a, a_row, tn_operand_part(job->a, row, at->depth_at), rows, at->depth);
        } else if (job->a_in_place) {
            a = tn_operand_part(job->a, row, at->depth_at).data;
            a_row = job->a.row_stride;
            a_step = job->a.col_stride;
        }
        for (int64_t col = 0; col < at->cols; col += kernel->nr) {
            int64_t cols = smaller(at->cols - col, kernel->nr), b_step;
            const float *b = panel_of_b(job, at, col, &b_step);
            float *c = job->c.data + row * job->c.row_stride + (at->col + col) * job->c.col_stride;
            if (job->c.col_stride == 1)
                kernel->tile(c, job->c.row_stride, a, a_row, a_step, b, b_step, job->alpha, beta, rows, cols, at->depth);
            else
                kernel->tile_across(c, job->c.col_stride, a, a_row, a_step, b, b_step, job->alpha, beta, rows, cols,
                                    at->depth);
        }
    }
}

/* By one thread. A's panels of a block of rows and a piece of depth meet one strip of B after another. */
static void multiply(const product *job, int64_t mc, int64_t kc, int64_t strip) {
    block at;
    const int64_t steps = steps_of(job);
    for (at.row = 0; at.row < job->m; at.row += mc) {
        at.rows = smaller(job->m - at.row, mc);
        for (at.depth_at = 0; at.depth_at < steps; at.depth_at += kc) {
            at.depth = smaller(steps - at.depth_at, kc);
            if (!job->a_in_place && !job->a_by_rows)
                pack_a(job, &at);
            for (at.col = 0; at.col < job->n; at.col += strip) {
                at.cols = smaller(job->n - at.col, strip);
                pack_b(job, &at);
                multiply_tiles(job, &at);
            }
        }
    }
}

/* Into how many parts the rows of C are cut, its columns into team / as many: as takes the least time. What follows goes by
 * rows, too, and reads parts of them that another core has written more slowly. */
static int64_t parts_of_rows(const product *job, int64_t team) {
    const tn_gemm_kernel *kernel = job->kernel;
    int64_t best = 1;
    double least = 0;
    for (int64_t down = 1; down <= team; down++) {
        if (team % down)
            continue;
        double rows = (double)(panels(panels(job->m, kernel->mr), down) * kernel->mr);
        double cols = (double)(panels(panels(job->n, kernel->nr), team / down) * kernel->nr);
        double time = rows * cols * (down < team ? FOREIGN : 1);
        time += PACKING * ((job->a_in_place ? 0 : rows) + (job->b_in_place ? 0 : cols));
        if (down == 1 || time < least) {
            least = time;
            best = down;
        }
    }
    return best;
}

/* Part `index` of `count` of a size, in whole panels. */
static int64_t part(int64_t size, int64_t width, int64_t index, int64_t count) {
    return smaller(panels(size, width) * index / count * width, size);
}

static void multiply_part(const product *job, int64_t index, int64_t team) {
    const tn_gemm_kernel *kernel = job->kernel;
    const int64_t down = parts_of_rows(job, team), across = team / down;
    const int64_t row = part(job->m, kernel->mr, index / across, down);
    const int64_t col = part(job->n, kernel->nr, index % across, across);
    product mine = *job;
    mine.m = part(job->m, kernel->mr, index / across + 1, down) - row;
    mine.n = part(job->n, kernel->nr, index % across + 1, across) - col;
    if (mine.m == 0 || mine.n == 0)
        return;
    mine.a = tn_operand_part(job->a, row, 0);
    mine.b = tn_operand_part(job->b, 0, col);
    mine.c.data += row * job->c.row_stride + col * job->c.col_stride;

    /* Bits depend on kc, and so must it on the shape alone. */
    const int64_t kc = even_block(steps_of(job), kernel->kc, 8), mc = even_block(mine.m, kernel->mc, kernel->mr);
    const int64_t height = job->a_in_place || job->a_by_rows ? 0 : mc / kernel->mr * kernel->panel_a;
    mine.packed_a = tn_gemm_scratch((height + STRIP) * kc);
    if (mine.packed_a) {
        mine.packed_b = mine.packed_a + height * kc;
        multiply(&mine, mc, kc, STRIP);
        return;
    }
    float few_panels[MAX_KC * (MAX_PANEL + MAX_NR)];
    mine.packed_a = few_panels;
    mine.packed_b = few_panels + MAX_KC * MAX_PANEL;
    multiply(&mine, kernel->mr, kc, kernel->nr);
}

void tn_gemm_by_blocks(product *job) {
    if (job->kernel->unit == 1) {
        job->a_in_place = !job->a_by_rows && job->n <= IN_PLACE_COLS && job->a.dtype == TN_DTYPE_F32;
        job->b_in_place = job->m <= IN_PLACE_ROWS && job->b.dtype == TN_DTYPE_F32 && job->b.col_stride == 1 &&
                          job->b.row_stride % ALIASED != 0;
    }
    run(job, multiply_part);
}
