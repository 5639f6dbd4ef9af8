"""What runs behind `CrawlWatch` when everything lives in the process of the job."""
