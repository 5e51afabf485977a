import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Confluent's Parallel Consumer: 100 handlers that do nothing, in no order. See job.py. */
public class ParallelPeer {
  static final AtomicLong seen = new AtomicLong();
  static final AtomicLong total = new AtomicLong();
  static volatile long began;

  public static void main(String[] args) throws Exception {
    String job = args[0];
    long messages = Long.parseLong(field(job, "messages"));
    Properties properties = new Properties();
    properties.put("bootstrap.servers", field(job, "bootstrap"));
    properties.put("group.id", "bench-" + UUID.randomUUID());
    properties.put("auto.offset.reset", "earliest");
    properties.put("enable.auto.commit", "false");
    properties.put("isolation.level", "read_committed");
    var consumer =
        new KafkaConsumer<byte[], byte[]>(
            properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    var options =
        ParallelConsumerOptions.<byte[], byte[]>builder()
            .consumer(consumer)
            .ordering(ProcessingOrder.UNORDERED)
            .maxConcurrency(Integer.parseInt(field(job, "tasks")))
            .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
            .build();
    var processor = ParallelStreamProcessor.<byte[], byte[]>createEosStreamProcessor(options);
    processor.subscribe(List.of(field(job, "topic")));
    var done = new CountDownLatch(1);
    processor.poll(
        context -> {
          byte[] value = context.getSingleConsumerRecord().value();
          if (began == 0) {
            began = System.nanoTime();
          }
          total.addAndGet(value[value.length - 2] & 0xff);
          if (seen.incrementAndGet() == messages) {
            done.countDown();
          }
        });
    done.await();
    double seconds = (System.nanoTime() - began) / 1e9;
    System.out.printf(
        Locale.ROOT,
        "{\"count\": %d, \"checksum\": %d, \"seconds\": %f, \"rss\": %f}%n",
        seen.get(),
        total.get(),
        seconds,
        peak());
    System.exit(0);
  }

  static String field(String job, String name) {
    Matcher found = Pattern.compile("\"" + name + "\": \"?([^\",}]+)").matcher(job);
    if (!found.find()) {
      throw new IllegalArgumentException(name);
    }
    return found.group(1);
  }

  /** The most memory that this process has had, in megabytes. */
  static double peak() throws Exception {
    Path status = Path.of("/proc/self/status");
    if (!Files.exists(status)) {
      return 0;
    }
    String line =
        Files.lines(status).filter(each -> each.startsWith("VmHWM:")).findFirst().orElse("VmHWM: 0");
    return Long.parseLong(line.split("\\s+")[1]) * 1024 / 1e6;
  }
}
