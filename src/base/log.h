/* SPDX-License-Identifier: MIT */
/*
 * Messages of the library. They go to the client's sink or nowhere: the library lives in someone's process and prints nothing.
 */
#ifndef GW_BASE_LOG_H
#define GW_BASE_LOG_H

enum gw_log_level { GW_LOG_ERROR, GW_LOG_WARN, GW_LOG_INFO, GW_LOG_DEBUG };

__attribute__((format(printf, 2, 3))) void gw_log(enum gw_log_level level, const char *fmt, ...);

#endif
