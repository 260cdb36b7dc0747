// A pool of threads that share the items of one loop at a time.
//
// Threads claim items from a counter, so that a thread the system does not run delays only the item
// it holds. Idle threads spin for some microseconds and then sleep. A loop that starts while another
// thread's loop has the pool runs in its own thread alone.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels.h"

enum { MAX_THREADS = 256, IDLE_SPINS = 4000, WAIT_SPINS = 20000 };

// Next item of a loop that has ended: no claim succeeds while the owner writes the next loop.
#define NO_ITEMS 0xffffffffu

static struct {
  pthread_mutex_t owner;  // held by the thread whose loop runs
  pthread_mutex_t sleep;
  pthread_cond_t wake;
  atomic_int sleepers;
  atomic_int num_workers;
  atomic_int allowed;  // workers that the current loop uses
  _Atomic uint64_t state;  // number of the loop, then the next item or NO_ITEMS, 32 bits each
  atomic_llong done;
  _Atomic(void (*)(void *, int64_t)) body;
  _Atomic(void *) argument;
  _Atomic int64_t count;  // at most NO_ITEMS
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER,
          .sleep = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Claim and run items of loop `loop` until there are none left.
static void work(uint32_t loop) {
  for (;;) {
    uint64_t seen = atomic_load_explicit(&pool.state, memory_order_acquire);
    // Valid if the claim below succeeds: the owner writes these only while `state` has NO_ITEMS, and
    // who reads a new one sees that state.
    void (*body)(void *, int64_t) = atomic_load_explicit(&pool.body, memory_order_acquire);
    void *argument = atomic_load_explicit(&pool.argument, memory_order_acquire);
    int64_t count = atomic_load_explicit(&pool.count, memory_order_acquire);
    do {
      uint32_t item = (uint32_t)seen;
      if ((uint32_t)(seen >> 32) != loop || item == NO_ITEMS || item >= count) return;
    } while (!atomic_compare_exchange_weak_explicit(&pool.state, &seen, seen + 1,
                                                    memory_order_acq_rel, memory_order_acquire));
    body(argument, (int64_t)(seen & 0xffffffffu));
    atomic_fetch_add_explicit(&pool.done, 1, memory_order_acq_rel);
  }
}

static void *serve(void *number) {
  int mine = (int)(intptr_t)number;
  uint32_t served = 0;
  for (;;) {
    uint32_t loop = served;
    for (int spin = 0; spin < IDLE_SPINS && loop == served; spin++) {
      loop = (uint32_t)(atomic_load_explicit(&pool.state, memory_order_acquire) >> 32);
      if (loop == served) relax();
    }
    if (loop == served) {
      pthread_mutex_lock(&pool.sleep);
      atomic_fetch_add(&pool.sleepers, 1);
      while ((loop = (uint32_t)(atomic_load(&pool.state) >> 32)) == served)
        pthread_cond_wait(&pool.wake, &pool.sleep);
      atomic_fetch_sub(&pool.sleepers, 1);
      pthread_mutex_unlock(&pool.sleep);
    }
    served = loop;
    if (mine < atomic_load(&pool.allowed)) work(loop);
  }
  return NULL;
}

// The threads of a process do not exist in its fork.
static void forget_workers(void) {
  atomic_store(&pool.num_workers, 0);
  atomic_store(&pool.sleepers, 0);
  pthread_mutex_init(&pool.owner, NULL);
  pthread_mutex_init(&pool.sleep, NULL);
  pthread_cond_init(&pool.wake, NULL);
}

static void start_workers(int wanted) {
  int have = atomic_load(&pool.num_workers);
  if (have >= wanted) return;
  if (have == 0) {
    static int registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_workers) == 0;
  }
  while (have < wanted) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attributes, serve, (void *)(intptr_t)have);
    pthread_attr_destroy(&attributes);
    if (failed) break;  // the loop runs with the threads there are
    have++;
  }
  atomic_store(&pool.num_workers, have);
}

void run_parallel(void (*body)(void *, int64_t), void *argument, int64_t count, int threads) {
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  if (threads > count) threads = (int)count;
  if (threads < 2 || count >= NO_ITEMS || pthread_mutex_trylock(&pool.owner)) {
    for (int64_t i = 0; i < count; i++) body(argument, i);
    return;
  }
  start_workers(threads - 1);
  atomic_store_explicit(&pool.body, body, memory_order_release);
  atomic_store_explicit(&pool.argument, argument, memory_order_release);
  atomic_store_explicit(&pool.count, count, memory_order_release);
  atomic_store_explicit(&pool.done, 0, memory_order_relaxed);
  atomic_store(&pool.allowed, threads - 1);
  uint32_t loop = (uint32_t)(atomic_load(&pool.state) >> 32) + 1;
  atomic_store(&pool.state, (uint64_t)loop << 32);
  if (atomic_load(&pool.sleepers) > 0) {
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
  }
  work(loop);
  for (int spin = 0; atomic_load_explicit(&pool.done, memory_order_acquire) < count; spin++) {
    if (spin < WAIT_SPINS)
      relax();
    else
      sched_yield();
  }
  atomic_store(&pool.state, (uint64_t)loop << 32 | NO_ITEMS);
  pthread_mutex_unlock(&pool.owner);
}
